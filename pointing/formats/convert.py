"""From one format to another: a reader, a writer, and a file that is whole or not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO, get_args

from files.owned import writing_file
from pointing.data_rows import DatasetError
from pointing.formats.coco import read_coco, write_coco
from pointing.formats.example import Example
from pointing.formats.label_studio import read_label_studio, write_label_studio
from pointing.formats.published import read_published, write_published
from pointing.formats.ti1k import read_ti1k
from pointing.formats.yourefit import read_yourefit, write_yourefit

FormatName = Literal["published", "normalised", "coco", "label-studio", "yourefit", "ti1k"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
WRITTEN = tuple(name for name in FORMATS if name != "ti1k")


@dataclass(frozen=True, slots=True)
class Converted:
    """How many examples were read, and how many could not be written whole.

    >>> Converted(examples=10, lost=0).lost
    0
    """

    examples: int
    lost: int


def convert(
    source: FormatName,
    file: Path,
    target: FormatName,
    out: Path,
    folder: Path,
    *,
    overwrite: bool = False,
    example_read: Callable[[], None] = lambda: None,
) -> Converted:
    """Reads `file` and writes `out`; images are looked up in `folder`, and stay there.

    "normalised" is the published format with coordinates as shares of the sides. Raises DatasetError naming file, place
    and remedy for what cannot be read or written, and ExistsError where something would be replaced.
    """
    if target == "ti1k":
        raise DatasetError(f"--to {target}: has thumbs, which no data here knows; choose one of {', '.join(WRITTEN)}")
    if not file.is_file():
        raise DatasetError(f"{file}: no such file")
    count = 0

    def counted() -> Iterator[Example]:
        nonlocal count
        for example in _read(source, file, folder):
            count += 1
            example_read()
            yield example

    with writing_file(out, overwrite=overwrite) as beside:
        with beside.open("x", encoding="utf-8") as stream:
            lost = _write(target, counted(), stream)
        if not count:
            raise DatasetError(f"{file}: holds nothing to convert")
    return Converted(count, lost)


def _read(source: FormatName, file: Path, folder: Path) -> Iterator[Example]:
    if source in ("published", "normalised"):
        return read_published(file, folder, normalised=source == "normalised")
    readers = {"coco": read_coco, "label-studio": read_label_studio, "yourefit": read_yourefit, "ti1k": read_ti1k}
    return readers[source](file, folder)


def _write(target: FormatName, examples: Iterable[Example], out: TextIO) -> int:
    if target in ("published", "normalised"):
        for example in examples:
            write_published(example, out, normalised=target == "normalised")
        return 0
    return {"coco": write_coco, "label-studio": write_label_studio, "yourefit": write_yourefit}[target](examples, out)
