"""What went wrong in a reply: one outcome each, the first in this order that applies.

    false alarm    marks anything where nothing is pointed at
    format         has not the form of a transcript: cut off, a part missing or twice
    missed         says that nothing is pointed at where something is
    wrong hand     IoU of the hand box under 0.5
    wrong ray      more than 15 degrees off, or without a direction
    wrong object   IoU of the target box under 0.25
    loose box      IoU of the target box under 0.5
    wrong name     another name than the target's
    correct        none of these

The order is that of the transcript: what comes first explains what follows, so that a wrong object after a wrong ray
counts as a wrong ray. What the ground truth does not know is not held against a reply. The false alarms are those of
`false_alarm_rate`, and the bounds of boxes those of the accuracies (pointing/metrics.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from pointing.coordinates import Frame
from pointing.metrics import THRESHOLDS, Measurement, measure
from pointing.parts import RawTruth

Outcome = Literal[
    "false alarm",
    "format",
    "missed",
    "wrong hand",
    "wrong ray",
    "wrong object",
    "loose box",
    "wrong name",
    "correct",
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)  # in the order in which they are looked for
HAND_IOU = 0.5
RAY_DEGREES = 15.0
SAME_OBJECT, TIGHT = THRESHOLDS[0], THRESHOLDS[1]  # IoU of the target box

_IDENTITY = Frame.identity()


def outcome(measured: Measurement) -> Outcome:
    """The one outcome of a measured reply.

    >>> outcome(Measurement(negative=False, marked=True, well_formed=True, hand_iou=0.9, object_iou=0.3))
    'loose box'
    """
    if measured.negative:
        if measured.marked:
            return "false alarm"
        return "correct" if measured.well_formed else "format"
    if not measured.well_formed:
        return "format"
    return _of_answer(measured) if measured.marked else "missed"


def _of_answer(measured: Measurement) -> Outcome:
    """Of a whole transcript about a positive."""
    hand, target = measured.hand_iou, measured.object_iou
    if hand is not None and hand < HAND_IOU:
        return "wrong hand"
    if measured.ray_found is not None and (measured.ray_error is None or measured.ray_error > RAY_DEGREES):
        return "wrong ray"
    if target is not None and target < SAME_OBJECT:
        return "wrong object"
    if target is not None and target < TIGHT:
        return "loose box"
    return "wrong name" if measured.caption_correct is False else "correct"


def outcome_of(reply: str, truth: RawTruth, frame: Frame = _IDENTITY) -> Outcome:
    """The outcome of a reply written in `frame`; `truth` is read as `read_truth` does. Never raises.

    >>> outcome_of("<answer>Nothing is pointed at.</answer>", "none")
    'correct'
    """
    return outcome(measure(reply, truth, frame))


def counted(outcomes: Iterable[Outcome]) -> Mapping[Outcome, int]:
    """How many replies have each outcome, in the order of OUTCOMES; those that no reply has count 0.

    >>> counted(["correct", "format", "correct"])["correct"]
    2
    """
    found = Counter(outcomes)
    return {each: found[each] for each in OUTCOMES}
