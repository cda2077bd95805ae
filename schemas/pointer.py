"""The HTTP contract of the pointer service. Boxes and points are in pixels of the photo turned upright."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.task import Box, RaySegment, Record
from schemas.trajectory import EndedBy

Temperature = Annotated[float, Field(ge=0.0, le=10.0)]


class PointQuestion(Record):
    """What is asked of a photo. `question` None: as the model was trained.

    `temperature` None: 0 for one sample, 0.6 for several.

    >>> PointQuestion(samples=8).question is None
    True
    """

    question: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    samples: Annotated[int, Field(ge=1)] = 1
    temperature: Temperature | None = None


class PointRequest(PointQuestion):
    """The same as one JSON document: `image` is a JPEG, PNG or WebP file in base64."""

    image: Annotated[str, Field(min_length=1)]


class PointSample(Record):
    """One draw, whole. None: not said, or nothing that a photo could hold."""

    index: int
    name: str | None
    target: Box | None
    hand: Box | None
    ray: RaySegment | None
    ended_by: EndedBy
    turns: tuple[str, ...]


class PointAnswer(Record):
    """What the model answers: the draw that most others agree with, and all of them.

    `confidence` is the share of draws that agree with it, None of one draw. `width` and `height` are of the photo
    turned upright; `seconds` from the request's arrival.
    """

    name: str | None
    target: Box | None
    hand: Box | None
    ray: RaySegment | None
    confidence: float | None
    best: int
    question: str
    width: int
    height: int
    seconds: float
    samples: tuple[PointSample, ...]


class HandStage(Record):
    """Where the model sees the hand."""

    event: Literal["hand"] = "hand"
    index: int
    box: Box | None


class RayStage(Record):
    """The pointing ray that it asks to have drawn."""

    event: Literal["ray"] = "ray"
    index: int
    ray: RaySegment | None


class RedrawnStage(Record):
    """What it is shown next: the photo with the ray, as the model sees it; a PNG in base64."""

    event: Literal["redrawn"] = "redrawn"
    index: int
    image: str


class LookStage(Record):
    """What it says after a look: turn 0 the first, turn 1 the second."""

    event: Literal["look"] = "look"
    index: int
    turn: int
    text: str


class TargetStage(Record):
    """What is pointed at, by one draw."""

    event: Literal["target"] = "target"
    index: int
    box: Box | None
    name: str | None


class ConfidenceStage(Record):
    """How far the draws agree; `index` is the draw that most others agree with."""

    event: Literal["confidence"] = "confidence"
    index: int
    share: float | None


class DoneStage(Record):
    """The whole answer; nothing follows."""

    event: Literal["done"] = "done"
    answer: PointAnswer


class FailedStage(Record):
    """There will be no answer; nothing follows."""

    event: Literal["failed"] = "failed"
    detail: str


Stage = Annotated[
    HandStage | RayStage | RedrawnStage | LookStage | TargetStage | ConfidenceStage | DoneStage | FailedStage,
    Field(discriminator="event"),
]
