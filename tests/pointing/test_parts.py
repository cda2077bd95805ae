"""Which parts are read from replies and from ground truth, and in which frame."""

import json
import math

import pytest

from pointing.coordinates import Frame, Size
from pointing.grammar import parse
from pointing.parts import Truth, predict, read_truth
from schemas.task import NEGATIVE, GroundTruth, RaySegment

FULL = {
    "stage": 2,
    "hand_bbox": [0, 0, 30, 40],
    "pointing_keypoints": [[1, 2], [3, 4]],
    "pointing_ray": {"start": [3, 4], "end": [50, 60]},
    "obj_bbox": [50, 50, 70, 70],
    "obj_name": "cup",
}
CALL = '<tool_call>{"name": "draw_ray", "start": [500, 500], "end": [1000, 0], "color": "red"}</tool_call>'


def test_a_reply_is_read_in_its_frame():
    frame = Frame("thousandths", Size(200, 100), Size(196, 112))
    text = (
        "<|box_start|>[0, 0, 100, 100]<|box_end|>"
        "<|point_start|>[10, 20]<|point_end|><|point_start|>[30, 40]<|point_end|>"
        f"<|point_start|>[9, 9]<|point_end|>{CALL}{CALL.replace('1000', '7')}"
        "<|box_start|>[1, 1, 2, 2]<|box_end|><|box_start|>[500, 500, 1000, 1000]<|box_end|>"
    )
    found = predict(parse(text), frame)
    assert found.hand == (0, 0, 20, 10)
    assert found.keypoints == ((2, 2), (6, 4))
    assert found.ray == ((100, 50), (200, 0))
    assert found.target == (100, 50, 200, 100)


def test_what_stands_in():
    one_point = "<|point_start|>[10, 20]<|point_end|>"
    found = predict(parse(one_point + CALL), Frame.identity())
    assert found.keypoints == found.ray == ((500, 500), (1000, 0))
    assert predict(parse(one_point), Frame.identity()).keypoints is None
    assert predict(parse("<|box_start|>[1, 2, 3, 4]<|box_end|>" + CALL), Frame.identity()).target is None
    alone = predict(parse("<|box_start|>[1, 2, 3, 4]<|box_end|>"), Frame.identity())
    assert alone.hand == alone.target == (1, 2, 3, 4)


def test_truth_is_the_same_in_every_form():
    truth = read_truth(FULL)
    assert truth == Truth(
        hand=(0, 0, 30, 40),
        keypoints=((1, 2), (3, 4)),
        ray=((3, 4), (50, 60)),
        target=(50, 50, 70, 70),
        name="cup",
        scale=50.0,
    )
    record = GroundTruth.model_validate_json(json.dumps(FULL))
    assert read_truth(json.dumps(FULL)) == read_truth(record) == truth
    assert read_truth(record.model_dump_json()) == read_truth(record.model_dump_json(exclude_none=True)) == truth


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "none",
        " None\n",
        "NONE",
        {"stage": 1},
        {"stage": 1, "hand_bbox": None, "obj_bbox": [1, 2, 3, 4]},
        {"stage": True},
        {"stage": 1.0},
        '{"stage": 1}',
        ' {"stage": 1, "hand_bbox": null} ',
        NEGATIVE,
    ],
)
def test_negatives(raw):
    assert read_truth(raw) is None


@pytest.mark.parametrize(
    "raw",
    ["", " ", "null", "[]", "5", "{bad", "[" * 100_000, {}, [], 5, {"stage": 2}, {"stage": "1"}, '{"stage": 0}'],
)
def test_positives_that_know_nothing(raw):
    assert read_truth(raw) == Truth()


def test_an_empty_hand_is_not_a_negative():
    assert read_truth({"stage": 1, "hand_bbox": []}) == Truth()


def test_keypoints_fall_back_to_the_ray_only_where_absent():
    ray = {"pointing_ray": {"start": [3, 4], "end": [5, 6]}}
    for absent in ({}, {"pointing_keypoints": None}):
        assert read_truth(ray | absent) == Truth(keypoints=((3, 4), (5, 6)), ray=((3, 4), (5, 6)))
    for broken in ([], [[1, 2]], "ab", 5):
        assert read_truth(ray | {"pointing_keypoints": broken}) == Truth(ray=((3, 4), (5, 6)))
    half = {"pointing_ray": {"start": [3, 4]}}
    assert read_truth(half) == Truth()
    record = GroundTruth(pointing_ray=RaySegment(start=(3, 4), end=(5, 6)))
    assert read_truth(record) == Truth(keypoints=((3, 4), (5, 6)), ray=((3, 4), (5, 6)))


@pytest.mark.parametrize(
    "box",
    [[1, 2, 3], [1, 2, 3, 4, 5], (1, 2, 3, 4), "1234", 5, ["x", 2, 3, 4], [None] * 4, [[1], 2, 3, 4], [10**400] * 4],
)
def test_boxes_that_cannot_be_read_are_absent(box):
    truth = read_truth({"hand_bbox": box, "obj_bbox": box})
    assert truth is not None
    assert truth.hand is truth.target is None


@pytest.mark.parametrize(
    ("hand", "scale"),
    [
        ([0, 0, 3, 4], 5),
        ([3, 4, 0, 0], 5),
        ([7, 7, 7, 7], 1),
        ([0, 0, 1e-9, 0], 1),
        (None, 1),
        ([1, 2, 3], 1),
        ([math.nan, 0, 3, 4], 1),
        ([0, 0, math.inf, 4], 1),
        (["x", 0, 3, 4], math.nan),
    ],
)
def test_scale_of_the_keypoints(hand, scale):
    truth = read_truth({"hand_bbox": hand})
    assert truth is not None
    assert truth.scale == pytest.approx(scale, nan_ok=True)


@pytest.mark.parametrize(
    "ray", [{"start": ["1", "2"], "end": [3, 4]}, {"start": "12", "end": "34"}, {"start": [1]}, [], 5]
)
def test_rays_that_cannot_be_read_are_absent(ray):
    truth = read_truth({"pointing_ray": ray})
    assert truth is not None
    assert truth.ray is None
