"""Every sentence of a conversation that is not the model's own invention: question, instruction, observations, and the
transcripts that supervised training imitates. Coordinates are written in the model's frame.
"""

from __future__ import annotations

from dataclasses import dataclass

from pointing import tool
from pointing.coordinates import Frame, FrameKind
from pointing.geometry import Box, Segment, clamp, clip_segment
from schemas.row_problem import FieldError, shown
from schemas.task import GroundTruth

QUESTION = "What is the hand pointing at?"

DRAWN = f"The image with the ray drawn in {tool.COLOR}:"
MALFORMED = "The tool call could not be read: it needs name, start, end and color, with whole numbers."
OUTSIDE = "The ray could not be drawn: it needs two different points inside the image."
NO_IMAGE = "There is no image to draw on."

_SEPARATOR = ", "
_NEGATIVE = "<think>There is no pointing hand.</think><answer>Nothing is pointed at.</answer>"
_HAND = "<think>The hand is at <|box_start|>["
_BASE = "]<|box_end|>, the finger runs from <|point_start|>["
_TIP = "]<|point_end|> to <|point_start|>["
_START = f"]<|point_end|>.</think>\n{tool.BEFORE_START}"
_END = tool.BEFORE_END
_CALLED = tool.AFTER_END
_CAPTION = "<answer>It points at <|caption_start|>"
_OBJECT = "<|caption_end|> <|box_start|>["
_ANSWERED = "]<|box_end|></answer>"

PHRASES: tuple[str, ...] = (
    QUESTION,
    DRAWN,
    MALFORMED,
    OUTSIDE,
    NO_IMAGE,
    _NEGATIVE,
    _HAND,
    _BASE,
    _TIP,
    _START,
    _END,
    _CALLED,
    _CAPTION,
    _OBJECT,
    _ANSWERED,
    _SEPARATOR,
)
"""Every literal fragment of the default question, the observations and the transcripts. Between them stand only whole
numbers and the words of a caption, so a small tokenizer may hold each as one token."""

_UNITS: dict[FrameKind, str] = {
    "pixels": "whole pixels of the image",
    "thousandths": "whole thousandths of the image's width and height, from 0 to 1000",
}


def instruction(question: str = QUESTION, detailed: bool = True, kind: FrameKind = "pixels") -> str:
    """The user's text: the question alone, or with `detailed` the tool and the form of the answer described after it.

    `kind` is the frame in which the model is to write coordinates.
    """
    if not detailed:
        return question
    return f"""{question}

Write coordinates as {_UNITS[kind]}, x to the right and y down.

First think: find the hand that points, its box, and the finger from its base to its tip.
<think>The hand is at <|box_start|>[x1, y1, x2, y2]<|box_end|>, the finger runs from \
<|point_start|>[x, y]<|point_end|> to <|point_start|>[x, y]<|point_end|>.</think>
Then draw the ray that the finger casts towards what it points at, and stop:
{tool.written("x, y", "x, y")}
You will be shown the image with this ray. Then name the object that the ray meets, with one box:
<answer>It points at <|caption_start|>name of the object<|caption_end|> \
<|box_start|>[x1, y1, x2, y2]<|box_end|></answer>

If no hand points at anything, draw nothing and answer at once, without boxes or points:
{_NEGATIVE}"""


@dataclass(frozen=True, slots=True)
class MarkedParts:
    """The marked parts of a transcript, each as the grammar reads it: `hand` and `target` are boxes, `base` and `tip`
    points, `call` draws the ray, `name` is a caption, and `label` the name without tags.
    """

    hand: str
    base: str
    tip: str
    call: str
    name: str
    target: str
    label: str


def marks(truth: GroundTruth, frame: Frame) -> MarkedParts:
    """The marks of a positive's transcript in the model's frame. Raises FieldError as `transcript` does."""
    said = _said(truth, frame)
    return MarkedParts(
        hand=f"<|box_start|>[{said.hand}]<|box_end|>",
        base=f"<|point_start|>[{said.base}]<|point_end|>",
        tip=f"<|point_start|>[{said.tip}]<|point_end|>",
        call=tool.written(said.start, said.end),
        name=f"<|caption_start|>{said.name}<|caption_end|>",
        target=f"<|box_start|>[{said.target}]<|box_end|>",
        label=said.name,
    )


def transcript(truth: GroundTruth, frame: Frame) -> tuple[str, ...]:
    """The assistant's turns that say what the ground truth says, in the model's frame.

    One turn for a negative; two otherwise: the hand and a tool call, then the answer. Finger points default to the
    ray's ends. Boxes and points are limited to the image and the ray is cut at its border, so that every coordinate
    lies in the frame. Raises FieldError naming what the ground truth lacks, or what in it cannot be written.

    >>> from schemas.task import NEGATIVE
    >>> transcript(NEGATIVE, Frame.identity())
    ('<think>There is no pointing hand.</think><answer>Nothing is pointed at.</answer>',)
    """
    if truth.negative:
        return (_NEGATIVE,)
    said = _said(truth, frame)
    first = f"{_HAND}{said.hand}{_BASE}{said.base}{_TIP}{said.tip}{_START}{said.start}{_END}{said.end}{_CALLED}"
    return first, f"{_CAPTION}{said.name}{_OBJECT}{said.target}{_ANSWERED}"


@dataclass(frozen=True, slots=True)
class _Said:
    """The numbers of a positive as they are written, and the name."""

    hand: str
    base: str
    tip: str
    start: str
    end: str
    name: str
    target: str


def _said(truth: GroundTruth, frame: Frame) -> _Said:
    hand, ray, target, name = truth.hand_bbox, truth.pointing_ray, truth.obj_bbox, truth.obj_name
    if hand is None or ray is None or target is None or not name:
        parts = {"hand_bbox": hand, "pointing_ray": ray, "obj_bbox": target, "obj_name": name}
        missing = ", ".join(key for key, value in parts.items() if not value)
        raise FieldError("ground_truth", f"no transcript without {missing}", "add it, or leave the task out of SFT")
    if "<" in name or not name.isprintable():
        remedy = "write plain words"
        raise FieldError("ground_truth.obj_name", "holds markup or control characters", remedy, shown(name))
    base, tip = truth.pointing_keypoints or (ray.start, ray.end)
    start, end = _ray((ray.start, ray.end), frame)
    return _Said(
        hand=_box(hand, frame),
        base=_point(base, frame),
        tip=_point(tip, frame),
        start=_numbers(start),
        end=_numbers(end),
        name=name,
        target=_box(target, frame),
    )


def _numbers(values: tuple[int, ...]) -> str:
    return _SEPARATOR.join(map(str, values))


def _point(point: tuple[float, float], frame: Frame) -> str:
    size = frame.original
    return _numbers(frame.from_original(clamp(point[0], 0, size.width), clamp(point[1], 0, size.height)))


def _box(box: Box, frame: Frame) -> str:
    return _SEPARATOR.join((_point(box[:2], frame), _point(box[2:], frame)))


def _ray(ray: Segment, frame: Frame) -> tuple[tuple[int, int], tuple[int, int]]:
    inside = clip_segment(*ray, frame.original.width, frame.original.height)
    if inside is not None:
        start, end = frame.from_original(*inside[0]), frame.from_original(*inside[1])
        if start != end:
            return start, end
    size = f"{frame.original.width}x{frame.original.height}"
    reason = f"lies outside the image of {size} or is too short to have a direction"
    raise FieldError("ground_truth.pointing_ray", reason, "correct it", f"{ray[0]} -> {ray[1]}")
