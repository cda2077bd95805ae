"""Metrics by hand: what is measured, what is left out, and how means and their errors are formed."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointing.coordinates import Frame, Size
from pointing.metrics import FARTHEST, Estimate, Measurement, measure, normalise_caption, summarise
from pointing.prompts import transcript
from schemas.task import NEGATIVE, GroundTruth, RaySegment

SIZE = Size(100, 100)
FRAME = Frame("pixels", SIZE, SIZE)
TRUTH = GroundTruth(
    hand_bbox=(10, 10, 40, 50),
    pointing_keypoints=((20, 20), (30, 30)),
    pointing_ray=RaySegment(start=(30, 30), end=(60, 30)),
    obj_bbox=(60, 20, 80, 40),
    obj_name="red star",
)
GOOD = "\n".join(transcript(TRUTH, FRAME))
SILENT = transcript(NEGATIVE, FRAME)[0]


def test_a_perfect_reply():
    assert measure(GOOD, TRUTH, FRAME) == Measurement(
        negative=False,
        marked=True,
        well_formed=True,
        object_iou=1.0,
        target_size="large",
        hand_iou=1.0,
        ray_found=True,
        ray_error=0.0,
        keypoints_found=True,
        keypoint_error=0.0,
        caption_correct=True,
    )


def test_errors_by_hand():
    reply = (
        GOOD.replace("[60, 20, 80, 40]", "[70, 20, 90, 40]")  # half of the target
        .replace('"end": [60, 30]', '"end": [30, 60]')  # down, not right
        .replace("[20, 20]", "[20, 30]")  # 10 of the hand's diagonal of 50, for one of two
        .replace("red star", "blue star")
    )
    found = measure(reply, TRUTH, FRAME)
    assert found.object_iou == pytest.approx(1 / 3)
    assert found.ray_error == pytest.approx(90)
    assert found.keypoint_error == pytest.approx(0.1)
    assert found.caption_correct is False
    assert found.well_formed


def test_metrics_are_in_original_pixels():
    frame = Frame("thousandths", Size(400, 100), Size(392, 112))
    said = "\n".join(transcript(TRUTH, frame))
    assert measure(said, TRUTH, frame).ray_error == pytest.approx(0, abs=1e-6)
    assert measure(said, TRUTH, frame).object_iou == pytest.approx(1)
    assert (measure(said, TRUTH).object_iou or 0) < 0.1  # read in the wrong frame it is far off


def test_absent_truth_is_left_out_and_absent_predictions_are_not():
    nothing = measure(SILENT, TRUTH, FRAME)
    assert (nothing.object_iou, nothing.hand_iou, nothing.caption_correct) == (0.0, 0.0, False)
    assert (nothing.ray_found, nothing.ray_error, nothing.keypoints_found, nothing.keypoint_error) == (
        False,
        None,
        False,
        None,
    )
    unknown = measure(GOOD, {}, FRAME)
    assert unknown == Measurement(negative=False, marked=True, well_formed=True)
    only_hand = measure(GOOD, {"hand_bbox": [10, 10, 40, 50]}, FRAME)
    assert (only_hand.hand_iou, only_hand.object_iou, only_hand.keypoints_found) == (1.0, None, None)
    flat_hand = measure(GOOD, {"hand_bbox": [5, 5, 5, 5], "pointing_keypoints": [[1, 1], [2, 2]]}, FRAME)
    assert flat_hand.keypoint_error is flat_hand.keypoints_found is None


@pytest.mark.parametrize(
    ("reply", "well_formed"),
    [
        (GOOD, True),
        (SILENT, True),
        ("", False),
        ("no idea", False),
        ("<answer>no idea", False),
        ("<answer>Nothing.</answer>", True),
        (GOOD.split("<answer>")[0], False),
        (GOOD + "<|box_start|>[1, 2, 3, 4]<|box_end|>", False),
        (GOOD.replace("<|caption_start|>", ""), False),
        (GOOD.replace("<|point_end|> to", ""), False),
        (GOOD.replace('"red"', '"blue"'), False),
        ("<tool_call>{}</tool_call>" + GOOD, False),
        ("<tool_call>{}</tool_call>", False),
    ],
)
def test_form(reply, well_formed):
    assert measure(reply, TRUTH, FRAME).well_formed is well_formed
    assert measure(reply, None, FRAME).well_formed is well_formed


@pytest.mark.parametrize(
    ("side", "expected"),
    [(69, "small"), (70, "medium"), (132, "medium"), (133, "large")],  # 0.48 % and 1.75 % of a million pixels
)
def test_target_sizes(side, expected):
    frame = Frame("pixels", Size(1000, 1000), Size(1008, 1008))
    truth = {"obj_bbox": [100, 100, 100 + side, 100 + side]}
    assert measure("", truth, frame).target_size == expected
    assert measure("", truth).target_size is None  # an image of unknown size


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Red Star", "red star", True),
        ("a red-star.", "red star", True),
        ("The\n  red_star!", "red star", True),
        ("star", "red star", False),
        ("", "red star", False),
        ("a", "a", True),
        ("Straße", "STRASSE", True),
        ("红色的星", "红色的星", True),
    ],
)
def test_captions(a, b, same):
    assert (normalise_caption(a) == normalise_caption(b)) is same


def test_a_caption_is_only_judged_where_the_name_is_known():
    unnamed = TRUTH.model_copy(update={"obj_name": None})
    assert measure(GOOD, unnamed, FRAME).caption_correct is None
    twice = GOOD + "<|caption_start|>cup<|caption_end|>"
    assert measure(twice, TRUTH, FRAME).caption_correct is False  # the last one is the answer


def test_summary_by_hand():
    half = GOOD.replace("[60, 20, 80, 40]", "[60, 20, 80, 30]")
    summary = summarise(
        [
            measure(GOOD, TRUTH, FRAME),
            measure(half, TRUTH, FRAME),
            measure(SILENT, TRUTH, FRAME),
            measure(GOOD, {"hand_bbox": [10, 10, 40, 50]}, FRAME),
            measure(SILENT, NEGATIVE, FRAME),
            measure(GOOD, NEGATIVE, FRAME),
            measure("<|caption_start|><|caption_end|>", "none", FRAME),
        ]
    )
    assert (summary.replies, summary.positives, summary.negatives) == (7, 4, 3)
    flat = summary.flat()
    assert flat["object_iou"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert flat["object_iou_n"] == 3
    assert flat["object_iou_se"] == pytest.approx(0.5 / math.sqrt(3))  # 1, 1/2, 0 have a deviation of 1/2
    assert flat["object_acc_25"] == flat["object_acc_50"] == pytest.approx(2 / 3)
    assert flat["object_acc_75"] == flat["object_acc_75_large"] == pytest.approx(1 / 3)
    assert "object_acc_50_small" not in flat
    assert flat["hand_iou"] == pytest.approx(3 / 4)
    assert (flat["ray_error_deg"], flat["ray_error_deg_n"], flat["ray_rate"]) == (0, 2, pytest.approx(2 / 3))
    assert (flat["keypoint_error_n"], flat["keypoint_rate_n"]) == (2, 3)
    assert flat["caption_accuracy"] == pytest.approx(2 / 3)
    assert flat["format_rate"] == pytest.approx(6 / 7)
    assert flat["miss_rate"] == 1 / 4
    assert flat["false_alarm_rate"] == pytest.approx(2 / 3)
    assert all(isinstance(value, float) for value in flat.values())


def test_accuracy_by_size():
    frame = Frame("thousandths", Size(1000, 1000), Size(1008, 1008))
    box = "<|box_start|>[0, 0, 50, 50]<|box_end|>"
    summary = summarise(
        [
            measure(box, {"obj_bbox": [0, 0, 50, 50]}, frame),
            measure(box, {"obj_bbox": [0, 0, 50, 40]}, frame),
            measure(box, {"obj_bbox": [0, 0, 100, 100]}, frame),  # IoU of exactly 0.25 counts
            measure(box, {"obj_bbox": [0, 0, 200, 200]}, frame),
        ]
    )
    accuracies = {name: e.mean for name, e in summary.estimates.items() if name.startswith("object_acc")}
    assert accuracies == {
        "object_acc_25": 3 / 4,
        "object_acc_50": 1 / 2,
        "object_acc_75": 1 / 2,
        "object_acc_25_small": 1,
        "object_acc_50_small": 1,
        "object_acc_75_small": 1,
        "object_acc_25_medium": 1,
        "object_acc_50_medium": 0,
        "object_acc_75_medium": 0,
        "object_acc_25_large": 0,
        "object_acc_50_large": 0,
        "object_acc_75_large": 0,
    }


def test_an_empty_summary_has_counts_alone():
    assert summarise([]).flat() == {"replies": 0.0, "positives": 0.0, "negatives": 0.0}


def test_estimates():
    assert Estimate.of([2.0]) == Estimate(2.0, 1, None, 1)
    assert Estimate.of([1.0, 2.0, 3.0, 4.0]) == Estimate(2.5, 4, pytest.approx(math.sqrt(5 / 3 / 4)), 4)


def test_draws_of_one_task_are_not_independent():
    """Tasks of 2 and 2 draws with means 1.5 and 3.5: the error of two numbers 2 apart is 1."""
    assert Estimate.of([1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "b"]) == Estimate(2.5, 4, pytest.approx(1.0), 2)
    assert Estimate.of([1.0, 2.0], ["a", "a"]) == Estimate(1.5, 2, None, 1)
    # Tasks of 1 and 3 draws, mean 3: they exceed it by -3 and 3 together. sqrt(2 (9 + 9) / 1) / 4.
    assert Estimate.of([0.0, 3.0, 4.0, 5.0], ["a", "b", "b", "b"]).standard_error == pytest.approx(6 / 4)


def test_the_summary_s_errors_are_over_tasks():
    once = [measure(GOOD, TRUTH, FRAME), measure(SILENT, TRUTH, FRAME), measure(SILENT, NEGATIVE, FRAME)]
    alone, drawn = summarise(once), summarise([*once, *once, *once], ["a", "b", "c"] * 3)
    assert drawn.estimates.keys() == alone.estimates.keys()
    for name, estimate in drawn.estimates.items():
        expected = alone[name]
        assert (estimate.mean, estimate.count, estimate.tasks) == (expected.mean, 3 * expected.count, expected.count)
        assert estimate.standard_error == pytest.approx(expected.standard_error), name


def test_absurd_numbers_do_not_decide_a_mean():
    far = GOOD.replace("[20, 20]", "[" + "9" * 400 + ", 20]")
    assert measure(far, TRUTH, FRAME).keypoint_error == FARTHEST


numbers = st.one_of(st.integers(-5, 120).map(str), st.sampled_from(["9" * 400, "-" + "9" * 320, "0"]))
boxes = st.tuples(*[numbers] * 4).map(lambda v: f"<|box_start|>[{', '.join(v)}]<|box_end|>")
points = st.tuples(numbers, numbers).map(lambda v: f"<|point_start|>[{', '.join(v)}]<|point_end|>")
ray = '"name": "draw_ray", "start": [%s, %s], "end": [%s, %s], "color": "red"'
calls = st.tuples(*[numbers] * 4).map(lambda v: "<tool_call>{" + ray % v + "}</tool_call>")
replies = st.lists(st.one_of(boxes, points, calls, st.just("<|caption_start|>red star<|caption_end|>"))).map("".join)
truths = st.sampled_from([TRUTH, NEGATIVE, None, "none", "null", {}, {"obj_bbox": [0, 0, math.nan, 4], "obj_name": ""}])


@given(st.lists(st.tuples(replies, truths), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_reply_gives_finite_numbers(items):
    summary = summarise([measure(reply, truth, FRAME) for reply, truth in items])
    assert all(math.isfinite(value) for value in summary.flat().values())
    for name, estimate in summary.estimates.items():
        bound = {"ray_error_deg": 180.0, "keypoint_error": FARTHEST}.get(name, 1.0)
        assert 0 <= estimate.mean <= bound + 1e-9
        assert 1 <= estimate.count <= summary.replies
