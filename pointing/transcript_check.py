"""Transcripts that data files hold: read from their columns, and checked by the one grammar before anything starts.

    transcript        the turns, a list of texts; or one text, in which every tool call ends a turn
    transcript_frame  {"kind": "pixels", "seen_size": [644, 476]}: in which frame they are written; optional

A row with null or without the column has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError

from pointing import tool
from pointing.coordinates import Frame
from pointing.geometry import Box, angle, clamp, distance, iou
from pointing.grammar import ANSWER_CLOSE, ANSWER_OPEN, CAPTION_CLOSE, CAPTION_OPEN, Reply, parse
from pointing.parts import predict, read_truth
from schemas.row_problem import FieldError, shown
from schemas.task import GroundTruth, Transcript

FRAME = "_frame"  # what the frame's column has behind the name of the transcript's
LEAST_IOU, MOST_DEGREES = 0.5, 15.0  # how far a transcript may be from the ground truth of its row
_TAGS = ("<|box_start|>", "<|box_end|>", "<|point_start|>", "<|point_end|>", CAPTION_OPEN, CAPTION_CLOSE)
_SPECIAL = re.compile(r"<\|[^<>|]*+\|>")
_AFTER_CALL = re.compile(rf"(?<={re.escape(tool.CLOSE)})")


def read_transcript(fields: Mapping[str, Any], key: str) -> Transcript | None:
    """The transcript of a row, white space at the ends of its turns left off; None where it has none.

    Raises FieldError for what is no transcript, whatever it says.
    """
    value = fields.get(key)
    if value is None:
        return None
    turns = _AFTER_CALL.split(value) if isinstance(value, str) else value
    remedy = "give the assistant's turns as a list of texts, or one text"
    if not isinstance(turns, list) or not turns:
        raise FieldError(key, "is no transcript", remedy, shown(value))
    said: list[str] = []
    for number, turn in enumerate(cast("list[object]", turns)):
        if not isinstance(turn, str) or not turn.strip():
            field = key if isinstance(value, str) else f"{key}[{number}]"
            raise FieldError(field, "holds a turn without words", remedy, shown(turn))
        said.append(turn.strip())
    frame = fields.get(f"{key}{FRAME}")
    if frame is None:
        return Transcript(turns=tuple(said))
    try:
        if not isinstance(frame, dict):
            raise TypeError
        size = cast("dict[str, Any]", frame)["seen_size"]
        return Transcript(turns=tuple(said), kind=cast("dict[str, Any]", frame)["kind"], seen_size=size and tuple(size))
    except (ValidationError, TypeError, KeyError):
        remedy = 'write {"kind": "pixels" or "thousandths", "seen_size": [width, height]}, or leave it out'
        raise FieldError(f"{key}{FRAME}", "is no frame", remedy, shown(frame)) from None


def check_own(transcript: Transcript, truth: GroundTruth, frame: Frame, field: str) -> None:
    """Raises FieldError, the first there is, where a transcript cannot be trained on with a model that speaks `frame`.

    Its turns must have the form of an episode, every mark must be one that the grammar reads and lie in the frame, and
    what the ground truth knows must be what it says: boxes with an IoU of at least 0.5, or within a unit of rounding,
    and rays within 15 degrees.
    """
    for error in _errors(transcript, truth, frame, field):
        raise error


def _errors(transcript: Transcript, truth: GroundTruth, frame: Frame, field: str) -> Iterator[FieldError]:
    turns = transcript.turns
    yield from _other_frame(transcript, frame, f"{field}{FRAME}")
    for number, turn in enumerate(turns):
        yield from _form(turn, number + 1 == len(turns), f"{field}[{number}]")
        yield from _marks(turn, frame, f"{field}[{number}]")
    said = parse("".join(turns), strict=True)
    if truth.negative:
        if said.boxes or said.points or said.captions or said.tool_calls:
            reason = "marks something, and the ground truth says that nothing is pointed at"
            yield FieldError(field, reason, "correct either of them")
        return
    yield from _complete(said, turns, field)
    yield from _agrees(said, truth, frame, field)


def _other_frame(transcript: Transcript, frame: Frame, field: str) -> Iterator[FieldError]:
    """A transcript in the pixels of another size is wrong in every coordinate, and nothing else would tell."""
    remedy = "make them again for this model and its data.min_pixels and data.max_pixels: pointvg data transcripts"
    if transcript.kind is not None and transcript.kind != frame.kind:
        reason = f"is written in {transcript.kind}, and the model speaks in {frame.kind}"
        yield FieldError(field, reason, remedy)
    size = (frame.seen.width, frame.seen.height)
    if frame.kind == "pixels" and transcript.seen_size not in (None, size):
        width, height = transcript.seen_size or size
        reason = f"is of images seen as {width}x{height}, and the model sees {size[0]}x{size[1]}"
        yield FieldError(field, reason, remedy)


def _form(turn: str, last: bool, field: str) -> Iterator[FieldError]:
    """Every turn but the last ends in its one tool call, the last one answers."""
    calls = turn.count(tool.OPEN)
    if not last and (calls != 1 or not turn.endswith(tool.CLOSE)):
        reason, remedy = "does not end in one tool call", f"end each turn but the last with {tool.OPEN}...{tool.CLOSE}"
        yield FieldError(field, reason, remedy, shown(turn))
    if last and calls:
        reason = "calls a tool, and no turn comes after it"
        yield FieldError(field, reason, "add the turn that answers", shown(turn))
    if last and not 0 <= turn.find(ANSWER_OPEN) < turn.find(ANSWER_CLOSE):
        yield FieldError(field, "has no answer", f"put it between {ANSWER_OPEN} and {ANSWER_CLOSE}", shown(turn))
    if not last and ANSWER_OPEN in turn:
        yield FieldError(field, "answers, and calls a tool", "answer in the last turn alone", shown(turn))


def _marks(turn: str, frame: Frame, field: str) -> Iterator[FieldError]:
    """Every tag belongs to a mark that the grammar reads, whose coordinates lie in the frame."""
    for tag in _SPECIAL.findall(turn):
        if tag not in _TAGS:
            yield FieldError(field, f"holds {tag}, which only the conversation's form may write", "take it out")
    said = parse(turn, strict=True)
    counts = (len(said.boxes), len(said.points), len(said.captions))
    for opened, closed, count in zip(_TAGS[::2], _TAGS[1::2], counts, strict=True):
        if not turn.count(opened) == turn.count(closed) == count:
            reason = f"holds {opened} {turn.count(opened)} times, of which {count} can be read"
            yield FieldError(field, reason, f"write whole numbers, as in {_EXAMPLES[opened]}")
    if None in said.tool_calls or turn.count(tool.CLOSE) != len(said.tool_calls):
        remedy = f"write {tool.written('x, y', 'x, y')} with whole numbers"
        yield FieldError(field, "holds a tool call that cannot be read", remedy)
    limits = frame.limits
    corners = [corner for box in said.boxes for corner in (box[:2], box[2:])]
    for x, y in (*corners, *said.points, *(end for call in said.rays for end in call)):
        if not (0 <= x <= limits.width and 0 <= y <= limits.height):
            reason = f"has a coordinate outside the model's frame of {limits.width}x{limits.height} {frame.kind}"
            yield FieldError(field, reason, "write it in that frame", f"({x:g}, {y:g})")


_EXAMPLES = {
    "<|box_start|>": "<|box_start|>[1, 2, 3, 4]<|box_end|>",
    "<|point_start|>": "<|point_start|>[1, 2]<|point_end|>",
    CAPTION_OPEN: f"{CAPTION_OPEN}cup{CAPTION_CLOSE}",
}


def _complete(said: Reply, turns: Sequence[str], field: str) -> Iterator[FieldError]:
    """A positive says all parts: another form would teach the model to leave some out."""
    if not said.rays:
        yield FieldError(field, "draws no ray, and the ground truth is a positive", "call draw_ray in the first turn")
        return
    last = f"{field}[{len(turns) - 1}]"
    if len(said.boxes) == len(said.tail_boxes):
        yield FieldError(f"{field}[0]", "has no box of the hand", "write it before the tool call")
    if len(said.tail_boxes) != 1:
        reason = f"has {len(said.tail_boxes)} boxes behind the ray"
        yield FieldError(last, reason, "answer with the one box of the target")
    if len(said.captions) != 1 or not said.captions[0].strip() or CAPTION_OPEN not in turns[-1]:
        yield FieldError(last, "does not name the target once", f"write {_EXAMPLES[CAPTION_OPEN]} in the answer")


def _agrees(said: Reply, truth: GroundTruth, frame: Frame, field: str) -> Iterator[FieldError]:
    found, known = predict(said, frame), read_truth(truth)
    assert known is not None  # a positive
    remedy = f"correct either of them; the model's frame is {frame.limits.width}x{frame.limits.height} {frame.kind}"
    unit = max(frame.original.width / frame.limits.width, frame.original.height / frame.limits.height)
    for name, box, true in (("hand_bbox", found.hand, known.hand), ("obj_bbox", found.target, known.target)):
        if box is None or true is None:
            continue
        inside = _inside(true, frame)
        if iou(box, inside) < LEAST_IOU and not all(abs(a - b) <= unit for a, b in zip(box, inside, strict=True)):
            reason = f"its box has an IoU of {iou(box, inside):.2f} with {name} of the ground truth"
            yield FieldError(field, reason, remedy, shown([round(side, 1) for side in box]))
    if found.ray is not None and known.ray is not None:
        off = angle(found.ray, known.ray)
        length = distance(*found.ray)
        rounding = math.degrees(math.atan2(2 * unit, length))  # of a ray of a few pixels
        if off is None or math.degrees(off) > max(MOST_DEGREES, rounding):
            reason = "its ray has no direction" if off is None else f"its ray is {math.degrees(off):.0f} degrees off"
            yield FieldError(field, f"{reason}: pointing_ray of the ground truth is another", remedy)


def _inside(box: Box, frame: Frame) -> Box:
    width, height = frame.original.width, frame.original.height
    left, top, right, bottom = box
    return clamp(left, 0, width), clamp(top, 0, height), clamp(right, 0, width), clamp(bottom, 0, height)
