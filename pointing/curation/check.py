"""Looks through data files once and says everything that is wrong with them.

    read_rows --> refused rows                                        error
              --> image digests, questions, ids --> Places --> duplicates, contradictions, leaks
              --> image files                              --> turned by metadata, too narrow
              --> ground truth                             --> doubts: rays that miss, fingers away from hands

A split is a file, or what rows say in the field `split_key`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from pointing.coordinates import MAX_ASPECT, Size
from pointing.curation.finding import Finding, Kind
from pointing.curation.places import Places, RowPlace, file_digest, key_of
from pointing.curation.plausible import doubts
from pointing.data_rows import DatasetError, task_files
from pointing.dataset import REMEMBERED, DatasetOptions, ReadRow, read_rows
from pointing.image_check import UPRIGHT, orientation
from schemas.row_problem import RowProblem, Severity, shown
from schemas.task import GroundTruth


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What to look through. `files` of `data` may hold files that are not there: then that is what is found.

    >>> CheckOptions(DatasetOptions(files=("data/train.jsonl",))).id_key
    'id'
    """

    data: DatasetOptions
    id_key: str = "id"
    split_key: str = "split"


def check(options: CheckOptions, row_read: Callable[[], None] = lambda: None) -> Iterator[Finding]:
    """Every finding, in the order of files and rows. `row_read` is called after each row.

    Memory does not grow with the files, but for what SQLite keeps on disk. Raises DatasetError for an image folder that
    is not there, and OSError where an image cannot be opened.
    """
    with Places() as places:
        looks = _Looks(options, places)
        for given in options.data.files:
            try:
                for file in task_files((given,)):
                    yield from _of_file(file, options, looks, row_read)
            except DatasetError as error:
                reason = str(error).removeprefix(f"{given}: ")
                yield Finding("file", RowProblem(given, None, "file", "", reason, "correct it, or name another"))


def _of_file(file: Path, options: CheckOptions, looks: _Looks, row_read: Callable[[], None]) -> Iterator[Finding]:
    try:
        for row in read_rows(replace(options.data, files=(str(file),))):
            for error in row.errors:
                yield Finding("row", RowProblem.of(error, str(file), row.line))
            yield from looks.at(row)
            row_read()
    except DatasetError as error:
        reason = str(error).removeprefix(f"{file}: ")
        yield Finding("file", RowProblem(str(file), None, "file", "", reason, "correct it, or leave it out"))


def split_of(fields: Mapping[str, object], file: Path, split_key: str) -> str:
    """What a row says of its split, or else its file."""
    said = fields.get(split_key)
    return said if isinstance(said, str) and said else str(file)


class _Looks:
    """Looks at one row after the other, and remembers what it has seen."""

    def __init__(self, options: CheckOptions, places: Places) -> None:
        self._options = options
        self._places = places
        self._digest = lru_cache(maxsize=REMEMBERED)(file_digest)
        self._orientation = lru_cache(maxsize=REMEMBERED)(orientation)

    def at(self, row: ReadRow) -> Iterator[Finding]:
        """What is to be said of a row besides its errors."""
        place = RowPlace(split_of(row.fields, row.file, self._options.split_key), str(row.file), row.line)
        yield from self._id(row, place)
        readable = [
            (number, path, size)
            for number, (path, size) in enumerate(zip(row.images, row.sizes, strict=False))
            if path is not None and size is not None
        ]
        digests = [self._digest(path) for _, path, _ in readable]
        for (number, path, size), digest in zip(readable, digests, strict=True):
            field = f"{self._options.data.images_key}[{number}]"
            yield from self._leak(digest, path, field, place)
            yield from self._image(path, size, field, place)
        if row.task is None or not row.sizes:
            return
        yield from self._duplicate(row.task.question, row.task.ground_truth, digests, place)
        first = row.sizes[0]
        if first is not None:
            key = self._options.data.ground_truth_key
            yield from doubts(row.task.ground_truth, first, key, str(row.file), row.line)

    def _leak(self, digest: bytes, path: Path, field: str, place: RowPlace) -> Iterator[Finding]:
        other = self._places.elsewhere("image", digest, place.split)
        if other is not None:
            reason = f"the same image is in another split, at {other}"
            yield _finding("leak", place, field, path.name, reason, "keep it in one of them", "error")
        self._places.note("image", digest, place)

    def _image(self, path: Path, size: Size, field: str, place: RowPlace) -> Iterator[Finding]:
        turned = self._orientation(path)
        if turned != UPRIGHT:
            reason = (
                f"its metadata turns it (orientation {turned}); models see it upright, as {size.width}x{size.height}"
            )
            remedy = "see that the ground truth is of the upright image, and save it that way"
            yield _finding("image", place, field, path.name, reason, remedy)
        if size.aspect > MAX_ASPECT:
            reason = f"of {size.width}x{size.height}: sides differ by more than {MAX_ASPECT:g} times"
            yield _finding("image", place, field, path.name, reason, "crop it: models refuse such images", "error")

    def _duplicate(self, question: str, truth: GroundTruth, digests: list[bytes], place: RowPlace) -> Iterator[Finding]:
        key = key_of(question, *digests)
        place = replace(place, said=key_of(json.dumps(truth.model_dump(mode="json"), sort_keys=True)))
        first = self._places.within("question", key, place.split)
        if first is None:
            self._places.note("question", key, place)
            return
        field = self._options.data.prompt_key
        if first.said == place.said:
            reason = f"image, question and ground truth are those of {first}"
            yield _finding("duplicate", place, field, question, reason, "leave one of them out")
        else:
            reason = f"image and question are those of {first}, the ground truth is another"
            yield _finding("contradiction", place, field, question, reason, "correct one of them", "error")

    def _id(self, row: ReadRow, place: RowPlace) -> Iterator[Finding]:
        """A mere number counts the rows of a file: in another it says nothing."""
        key = self._options.id_key
        value = row.fields.get(key)
        if not isinstance(value, str | int) or isinstance(value, bool):
            return
        name = key_of(str(value))
        first = self._places.within("id", name, place.split)
        if first is not None:
            yield _finding("id", place, key, value, f"is the id of {first} too", "give each row its own", "error")
        else:
            self._places.note("id", name, place)
        other = None if str(value).isdigit() else self._places.elsewhere("id", name, place.split)
        if other is not None:
            reason = f"the same id is in another split, at {other}"
            yield _finding("leak", place, key, value, reason, "keep the row in one of them", "error")


def _finding(
    kind: Kind, place: RowPlace, field: str, value: object, reason: str, remedy: str, severity: Severity = "warning"
) -> Finding:
    return Finding(kind, RowProblem(place.file, place.line, field, shown(value), reason, remedy, severity))
