"""The parts of an act of pointing, as a reply predicts them and as the ground truth knows them, in original pixels.

    hand box · keypoints (finger base, fingertip) · ray (start, end) · target box and name

Both are read leniently, since a broken part is no reason to lose the others: what cannot be read is None. Never raises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

from pointing.coordinates import Frame
from pointing.geometry import SHORTEST, Box, Segment, diagonal
from pointing.grammar import Reply
from schemas.task import GroundTruth

RawTruth = GroundTruth | Mapping[str, Any] | str | None


class Prediction(NamedTuple):
    """What a reply says about the image. Numbers too large for a float are infinite.

    >>> from pointing.coordinates import Size; from pointing.grammar import parse
    >>> predict(parse("<|box_start|>[0, 250, 500, 1000]<|box_end|>"),
    ...         Frame("thousandths", Size(640, 480), Size(644, 476))).hand
    (0.0, 120.0, 320.0, 480.0)
    """

    hand: Box | None
    keypoints: Segment | None
    ray: Segment | None
    target: Box | None


def predict(reply: Reply, frame: Frame) -> Prediction:
    """The parts of a reply that was written in `frame`.

    The hand is its first box, the target the last box of its tail, the ray its first tool call that counts, and the
    keypoints its first two points or else that ray's ends.
    """
    hand = reply.boxes[0] if reply.boxes else None
    target = reply.tail_boxes[-1] if reply.tail_boxes else None
    ray = None
    for call in reply.tool_calls:
        if call is not None:
            ray = call
            break
    keypoints = (reply.points[0], reply.points[1]) if len(reply.points) >= 2 else ray
    if frame.is_identity:
        return Prediction(hand, keypoints, ray, target)
    return Prediction(
        hand and frame.box_to_original(hand),
        keypoints and _to_original(keypoints, frame),
        ray and _to_original(ray, frame),
        target and frame.box_to_original(target),
    )


def said_name(reply: Reply) -> str:
    """What a reply calls its target: its last caption that is not blank; "" where there is none."""
    return next((caption.strip() for caption in reversed(reply.captions) if caption.strip()), "")


def _to_original(segment: Segment, frame: Frame) -> Segment:
    return frame.to_original(*segment[0]), frame.to_original(*segment[1])


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of a positive. `scale` is what keypoint distances are divided by.

    That is the diagonal of the hand box, 1 where there is no box or an empty one, and NaN where the box is not made of
    numbers. Numbers may be NaN or infinite.

    >>> read_truth('{"hand_bbox": [0, 0, 3, 4]}').scale
    5.0
    """

    hand: Box | None = None
    keypoints: Segment | None = None
    ray: Segment | None = None
    target: Box | None = None
    name: str | None = None
    scale: float = 1.0


def read_truth(raw: RawTruth) -> Truth | None:
    """Reads ground truth: a record, a dictionary with the published keys, or its JSON. None for a negative.

    Negatives are None, the string "none" in any case, and stage 1 with hand_bbox absent or null. Everything else is a
    positive, one that knows nothing if it is not a dictionary or its JSON is broken.
    """
    if raw is None:
        return None
    if isinstance(raw, str):
        return _read_text(raw)
    if isinstance(raw, GroundTruth):
        return None if raw.negative else _read_record(raw)
    return _read_dict(raw) if isinstance(raw, dict) else Truth()


@lru_cache(maxsize=512)  # all samples of a group share their truth
def _read_text(text: str) -> Truth | None:
    if text.strip().lower() == "none":
        return None
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return Truth()
    return _read_dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else Truth()


def _read_record(truth: GroundTruth) -> Truth:
    ray = truth.pointing_ray
    segment = None if ray is None else (ray.start, ray.end)
    scale = 1.0 if truth.hand_bbox is None else _scale(truth.hand_bbox)
    keypoints = truth.pointing_keypoints or segment
    return Truth(truth.hand_bbox, keypoints, segment, truth.obj_bbox, truth.obj_name, scale)


def _read_dict(truth: dict[str, Any]) -> Truth | None:
    hand = truth.get("hand_bbox")
    stage = truth.get("stage")
    if hand is None and isinstance(stage, int | float) and stage == 1:
        return None
    ray = truth.get("pointing_ray")
    keypoints = truth.get("pointing_keypoints")
    if keypoints is None and isinstance(ray, dict) and "start" in ray and "end" in ray:
        keypoints = [ray["start"], ray["end"]]
    name = truth.get("obj_name")
    hand_box = _read_box(hand)
    broken = math.nan if _is_list(hand, 4) else 1.0
    return Truth(
        hand_box,
        _read_keypoints(keypoints),
        _read_ray(ray),
        _read_box(truth.get("obj_bbox")),
        name if isinstance(name, str) else None,
        broken if hand_box is None else _scale(hand_box),
    )


_UNREADABLE = (TypeError, ValueError, OverflowError, LookupError)


def _is_list(value: object, length: int) -> bool:
    return isinstance(value, list) and len(cast("list[object]", value)) == length


def _read_box(value: Any) -> Box | None:
    if not _is_list(value, 4):
        return None
    try:
        x1, y1, x2, y2 = value
        return float(x1), float(y1), float(x2), float(y2)
    except _UNREADABLE:
        return None


def _read_keypoints(value: Any) -> Segment | None:
    if not _is_list(value, 2):
        return None
    try:
        base, tip = value
        return (float(base[0]), float(base[1])), (float(tip[0]), float(tip[1]))
    except _UNREADABLE:
        return None


def _read_ray(value: Any) -> Segment | None:
    if not isinstance(value, dict):
        return None
    try:
        (ax, ay), (bx, by) = value["start"], value["end"]
        # Adding 0 refuses strings, which a box and keypoints may hold and a ray may not.
        return (float(ax + 0), float(ay + 0)), (float(bx + 0), float(by + 0))
    except _UNREADABLE:
        return None


def _scale(hand: Box) -> float:
    size = diagonal(hand)
    return size if SHORTEST < size < math.inf else 1.0
