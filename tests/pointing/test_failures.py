"""One outcome for every reply: worked by hand at each bound, and in any reply that hypothesis makes up."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointing.failures import OUTCOMES, Outcome, counted, outcome, outcome_of
from pointing.metrics import Measurement, measure, summarise

# The hand's diagonal is 50, the ray runs to the right, the target is 20 x 20.
TRUTH = {
    "hand_bbox": [0, 0, 30, 40],
    "pointing_keypoints": [[20, 20], [30, 20]],
    "pointing_ray": {"start": [30, 20], "end": [130, 20]},
    "obj_bbox": [100, 10, 120, 30],
    "obj_name": "red cup",
}
NOTHING = "<answer>Nothing is pointed at.</answer>"


def reply(
    hand: str = "0, 0, 30, 40", end: str = "130, 20", box: str = "100, 10, 120, 30", name: str = "red cup"
) -> str:
    return (
        f"<think>The hand is at <|box_start|>[{hand}]<|box_end|>, the finger runs from "
        "<|point_start|>[20, 20]<|point_end|> to <|point_start|>[30, 20]<|point_end|>.</think>"
        f'<tool_call>{{"name": "draw_ray", "start": [30, 20], "end": [{end}], "color": "red"}}</tool_call>\n'
        f"<answer>It is <|caption_start|>{name}<|caption_end|> <|box_start|>[{box}]<|box_end|></answer>"
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (reply(), "correct"),
        (reply(name="The Red Cup."), "correct"),  # names are compared as the metrics do
        (reply(name="blue cup"), "wrong name"),
        (reply(box="100, 10, 120, 19"), "loose box"),  # 180 of 400: IoU 0.45
        (reply(box="100, 10, 120, 20"), "correct"),  # 200 of 400: IoU 0.5
        (reply(box="100, 10, 120, 15"), "loose box"),  # 100 of 400: IoU 0.25
        (reply(box="100, 10, 120, 14"), "wrong object"),  # 80 of 400: IoU 0.2
        (reply(box="0, 0, 5, 5", name="blue cup"), "wrong object"),
        (reply(end="130, 46"), "correct"),  # atan(26 / 100) = 14.6 degrees
        (reply(end="130, 47"), "wrong ray"),  # atan(27 / 100) = 15.1 degrees
        (reply(end="30, 20"), "wrong ray"),  # it has no direction
        (reply(end="30, 120", box="0, 0, 5, 5"), "wrong ray"),  # what follows from it is not counted again
        (reply(hand="0, 0, 30, 20"), "correct"),  # 600 of 1200: IoU 0.5
        (reply(hand="0, 0, 30, 19"), "wrong hand"),  # 570 of 1200
        (reply(hand="50, 50, 60, 60", end="30, 120"), "wrong hand"),
        (NOTHING, "missed"),
        ("", "format"),
        (reply()[:-80], "format"),  # cut off before the box
        (reply() + reply(), "format"),
        ("<answer><|box_start|>[100, 10, 120, 30]<|box_end|></answer>", "format"),
    ],
)
def test_a_reply_about_a_positive_fails_by_the_first_that_applies(said: str, expected: Outcome) -> None:
    assert outcome_of(said, TRUTH) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (NOTHING, "correct"),
        ("", "format"),
        ("<answer>Nothing", "format"),
        (reply(), "false alarm"),
        ("<answer><|box_start|>[1, 2, 3, 4]<|box_end|></answer>", "false alarm"),
        ("<|point_start|>[1, 2]<|point_end|>", "false alarm"),  # a false alarm in any form
    ],
)
def test_a_reply_about_a_negative(said: str, expected: Outcome) -> None:
    assert outcome_of(said, "none") == expected


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"obj_bbox": [100, 10, 120, 30]}, "correct"),  # no hand, no ray, no name to be wrong about
        ({"hand_bbox": [0, 0, 30, 40]}, "correct"),
        ({"obj_bbox": [0, 0, 5, 5]}, "wrong object"),
        ({"pointing_ray": {"start": [0, 0], "end": [0, 9]}}, "wrong ray"),
    ],
)
def test_what_the_truth_does_not_know_is_not_held_against_a_reply(known: dict[str, Any], expected: Outcome) -> None:
    assert outcome_of(reply(), known) == expected


_share = st.one_of(st.none(), st.floats(0, 1))
_measured = st.builds(
    Measurement,
    negative=st.booleans(),
    marked=st.booleans(),
    well_formed=st.booleans(),
    object_iou=_share,
    hand_iou=_share,
    ray_found=st.one_of(st.none(), st.booleans()),
    ray_error=st.one_of(st.none(), st.floats(0, 180)),
    caption_correct=st.one_of(st.none(), st.booleans()),
)


@given(_measured)
def test_every_measurement_has_exactly_one_outcome_of_the_list(measured: Measurement) -> None:
    assert outcome(measured) in OUTCOMES
    assert sum(counted([outcome(measured)]).values()) == 1


@given(_measured)
def test_a_reply_that_gets_better_never_fails_earlier(measured: Measurement) -> None:
    """Mending the part that failed moves a positive to a later outcome, until it is correct."""
    perfect = {
        "format": {"well_formed": True},
        "missed": {"marked": True},
        "wrong hand": {"hand_iou": 1.0},
        "wrong ray": {"ray_found": True, "ray_error": 0.0},
        "wrong object": {"object_iou": 1.0},
        "loose box": {"object_iou": 1.0},
        "wrong name": {"caption_correct": True},
    }
    now = replace(measured, negative=False)
    for _ in itertools.repeat(None, len(OUTCOMES)):
        was = outcome(now)
        if was == "correct":
            return
        now = replace(now, **perfect[was])
        assert OUTCOMES.index(outcome(now)) > OUTCOMES.index(was)
    raise AssertionError(measured)


@given(st.text(max_size=60), st.sampled_from([TRUTH, "none", None, {}, {"obj_bbox": [math.nan] * 4}]))
def test_no_reply_and_no_truth_raises(said: str, truth: Any) -> None:
    assert outcome_of(said, truth) in OUTCOMES


@given(st.lists(st.tuples(st.sampled_from([NOTHING, "", reply(), reply(end="0, 0")]), st.booleans()), min_size=1))
def test_outcomes_agree_with_the_rates(drawn: list[tuple[str, bool]]) -> None:
    """Of negatives the false alarms are those of the metric, and no positive has one."""
    measured = [measure(said, TRUTH if positive else None) for said, positive in drawn]
    found = counted(map(outcome, measured))
    assert sum(found.values()) == len(drawn)
    summary = summarise(measured)
    alarms = summary["false_alarm_rate"].mean * summary.negatives if summary.negatives else 0
    assert found["false alarm"] == pytest.approx(alarms)
    answered = sum(said == NOTHING and positive for said, positive in drawn)
    assert found["missed"] == answered
