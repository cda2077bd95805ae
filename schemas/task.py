"""A task: one question about images, with its ground truth in pixels of the original image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Point = tuple[FiniteFloat, FiniteFloat]
Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
Kpts = tuple[Point, Point]


class Record(BaseModel):
    """Base of every record that crosses a process or a user: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RaySegment(Record):
    """The pointing ray: from `start` (near the fingertip) to `end`, pixels of the original image."""

    start: Point
    end: Point


class GroundTruth(Record):
    """What is known of one image, in pixels of the original image. Any part may be absent.

    Keys are those of the published data format. `negative` is not a key of it: a negative task is written as null, the
    string "none", or {"stage": 1, "hand_bbox": null}.

    >>> GroundTruth(hand_bbox=(97, 161, 137, 225), obj_bbox=(136, 36, 206, 102)).hand_bbox
    (97.0, 161.0, 137.0, 225.0)
    """

    stage: int | None = None
    hand_bbox: Box | None = None
    pointing_keypoints: Kpts | None = None
    pointing_ray: RaySegment | None = None
    obj_bbox: Box | None = None
    obj_name: str | None = None

    @property
    def negative(self) -> bool:
        """True for the published negative form (stage 1 without a hand)."""
        return self.stage == 1 and self.hand_bbox is None


NEGATIVE = GroundTruth(stage=1)


class Transcript(Record):
    """What the assistant should say of a task, turn by turn, in the model's frame.

    `kind` and `seen_size`, width and height in pixels, say which frame that is, if the file says so.

    >>> Transcript(turns=("<think>Nobody points.</think><answer>Nothing.</answer>",)).kind is None
    True
    """

    turns: Annotated[tuple[str, ...], Field(min_length=1)]
    kind: Literal["pixels", "thousandths"] | None = None
    seen_size: tuple[int, int] | None = None


class Task(Record):
    """One question with its images and ground truth, as read from a dataset.

    `images` are paths that were checked to lie inside the dataset's image folder. `prompt` is the question with one
    `<image>` placeholder per image. `image_sizes` are width and height of each when the data was read, if images were
    looked at then. `source` is "file:line", for messages to people. `transcript` is what the data has the assistant
    say, None where supervised training writes that itself.

    >>> Task(task_id="train-0", prompt="<image>What is it?", images=("a.png",), ground_truth=NEGATIVE).question
    'What is it?'
    """

    task_id: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(min_length=1)]
    images: tuple[str, ...] = ()
    image_sizes: tuple[tuple[int, int], ...] = ()
    ground_truth: GroundTruth
    source: str = ""
    transcript: Transcript | None = None

    @property
    def question(self) -> str:
        """The prompt without image placeholders: images stand before the text in every conversation."""
        return self.prompt.replace("<image>", "").strip()
