"""What all formats are read as and written from: one image with its question and ground truth in pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pointing.coordinates import Size
from pointing.data_rows import DatasetError
from pointing.drawing import ImageError
from pointing.image_check import image_size
from pointing.prompts import QUESTION
from pointing.truth_check import truth_errors
from schemas.row_problem import FieldError, RowProblem
from schemas.task import Box, GroundTruth, Kpts, Point, RaySegment

Scale = Callable[[Point], Point]


@dataclass(frozen=True, slots=True)
class Example:
    """One task. `image` is relative to the folder of images, `size` that of the image turned upright.

    >>> Example("a.jpg", Size(640, 480), GroundTruth(stage=1)).question
    'What is the hand pointing at?'
    """

    image: str
    size: Size
    truth: GroundTruth
    question: str = QUESTION


def size_of(image: str, folder: Path, file: Path, line: int, field: str) -> Size:
    """The size of an image of the data. Raises DatasetError naming the place where it is named."""
    try:
        return image_size(folder / image)
    except ImageError as error:
        problem = RowProblem(str(file), line, field, repr(image), str(error), "correct it, or give --images-root")
        raise DatasetError(str(problem)) from error


def checked(example: Example, file: Path, line: int) -> Example:
    """The same. Raises DatasetError where its ground truth cannot be meant."""
    for error in truth_errors(example.truth, example.size, "ground_truth"):
        raise refused(error, file, line)
    return example


def refused(error: FieldError, file: Path, line: int | None) -> DatasetError:
    """The error of a field with its place."""
    return DatasetError(str(RowProblem.of(error, str(file), line)))


def scaled(truth: GroundTruth, scale: Scale) -> GroundTruth:
    """Ground truth with every point put through `scale`, a number for x and one for y say."""

    def box(value: Box | None) -> Box | None:
        return None if value is None else (*scale(value[:2]), *scale(value[2:]))

    finger: Kpts | None = None
    if truth.pointing_keypoints is not None:
        finger = (scale(truth.pointing_keypoints[0]), scale(truth.pointing_keypoints[1]))
    ray = truth.pointing_ray
    return truth.model_copy(
        update={
            "hand_bbox": box(truth.hand_bbox),
            "obj_bbox": box(truth.obj_bbox),
            "pointing_keypoints": finger,
            "pointing_ray": None if ray is None else RaySegment(start=scale(ray.start), end=scale(ray.end)),
        }
    )
