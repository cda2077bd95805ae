"""The published format, which training reads: JSONL, JSON or Parquet in, JSONL out. See docs/data.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pointing.dataset import DatasetOptions, read_rows
from pointing.formats.example import Example, checked, refused, scaled, size_of
from schemas.task import GroundTruth, Point


def read_published(file: Path, folder: Path, *, normalised: bool = False) -> Iterator[Example]:
    """Each row's task; only the first image of a row is kept. With `normalised`, coordinates are shares of the sides.

    Raises DatasetError for the first row that cannot be used.
    """
    for row in read_rows(DatasetOptions(files=(str(file),), image_dir=str(folder), check_images=False)):
        if row.task is None:
            raise refused(row.errors[0], file, row.line)
        image = Path(row.task.images[0]).relative_to(folder.resolve()).as_posix()
        size = size_of(image, folder, file, row.line, "images[0]")
        truth = row.task.ground_truth

        def pixels(point: Point, width: int = size.width, height: int = size.height) -> Point:
            return point[0] * width, point[1] * height

        truth = scaled(truth, pixels) if normalised else truth
        yield checked(Example(image, size, truth, row.task.question), file, row.line)


def write_published(example: Example, lines: TextIO, *, normalised: bool = False) -> None:
    """Appends one row."""
    width, height = example.size.width, example.size.height
    truth = scaled(example.truth, lambda p: (p[0] / width, p[1] / height)) if normalised else example.truth
    row = {"prompt": f"<image>{example.question}", "images": [example.image], "ground_truth": as_row(truth)}
    lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def as_row(truth: GroundTruth) -> object:
    """The value of the column."""
    return "none" if truth.negative else truth.model_dump(mode="json", exclude_none=True)
