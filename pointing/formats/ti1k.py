"""Thumb Index 1000 (github.com/MahmudulAlam/TI1K-Dataset): hands, read only.

Each line of label.txt is `image xtl ytl xbr ybr xt yt xi yi`: the hand box, thumb tip and index tip as shares of the
sides. The finger's base and what it points at are not in it, so the hand box alone becomes ground truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pointing.data_rows import DatasetError
from pointing.formats.example import Example, checked, size_of
from schemas.row_problem import RowProblem, shown
from schemas.task import GroundTruth

NUMBERS = 8


def read_ti1k(file: Path, folder: Path) -> Iterator[Example]:
    """Each line's image. Raises DatasetError naming the line."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            words = line.replace(",", " ").strip(" []\n").split()
            if not words:
                continue
            name, values = words[0], words[1:]
            try:
                left, top, right, bottom, *fingers = map(float, values)
                if len(fingers) != NUMBERS - 4:
                    raise ValueError
            except ValueError:
                reason = f"expected the image and {NUMBERS} numbers"
                problem = RowProblem(str(file), number, "line", shown(line.strip()), reason, "correct the line")
                raise DatasetError(str(problem)) from None
            size = size_of(name, folder, file, number, "image")
            box = (left * size.width, top * size.height, right * size.width, bottom * size.height)
            yield checked(Example(name, size, GroundTruth(hand_bbox=box)), file, number)
