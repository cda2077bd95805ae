"""Lists of YouRefIt (github.com/yixchen/YouRefIt_ERU) as JSON: targets and phrases.

Each entry is [image, size or anything else, [left, top, right, bottom], phrase, ...], boxes in pixels. Its authors ship
the list as a .pth file: `json.dump(torch.load(FILE, weights_only=True), OUT)` makes JSON of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from pointing.data_rows import DatasetError
from pointing.formats.example import Example, checked, size_of
from pointing.ground_truth import read_ground_truth
from schemas.row_problem import FieldError, RowProblem, shown


def read_yourefit(file: Path, folder: Path) -> Iterator[Example]:
    """Each entry's image, with its phrase as the question. Raises DatasetError naming the entry."""
    entries = json_of(file)
    if not isinstance(entries, list):
        raise DatasetError(f"{file}: holds a {type(entries).__name__}; expected a list of entries")
    for number, entry in enumerate(cast("list[Any]", entries), start=1):
        try:
            image, _, box, phrase, *_ = entry
            if not (isinstance(image, str) and isinstance(phrase, str) and phrase.strip()):
                raise ValueError
            truth = read_ground_truth({"obj_bbox": box}, "entry")
        except FieldError as error:
            raise DatasetError(str(RowProblem.of(error, str(file), number))) from error
        except (TypeError, ValueError):
            reason = "expected [image, size, box, phrase, ...]"
            problem = RowProblem(str(file), number, "entry", shown(entry), reason, "correct it")
            raise DatasetError(str(problem)) from None
        size = size_of(image, folder, file, number, "image")
        yield checked(Example(image, size, truth, phrase), file, number)


def write_yourefit(examples: Iterable[Example], out: TextIO) -> int:
    """Writes the targets as a list; returns how many examples have none and are left out."""
    left_out = 0
    separator = "[\n"
    for example in examples:
        if example.truth.obj_bbox is None:
            left_out += 1
            continue
        size = [example.size.width, example.size.height]
        entry = [example.image, size, list(example.truth.obj_bbox), example.question, []]
        out.write(separator + json.dumps(entry, ensure_ascii=False))
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")
    return left_out


def json_of(file: Path) -> object:
    """The value of a JSON file. Raises DatasetError."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: not JSON ({error}); export it again") from error
