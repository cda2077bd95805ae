"""Reads task files and checks all of them before a run begins.

    .jsonl / .json / .parquet -> rows -> fields by configured keys -> Task, or RowProblem(file, line, field, ...)

The order of tasks is that of the files; which are dealt out when is the sampler's business.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pointing.coordinates import Size
from pointing.data_rows import DataRow, DatasetError, data_rows, labels, task_files
from pointing.drawing import MAX_PIXELS, ImageError
from pointing.ground_truth import truth_or_errors
from pointing.image_check import image_size
from pointing.sampler import Cursor, Sampler
from pointing.transcript_check import read_transcript
from pointing.truth_check import truth_errors
from pointing.unpack import unpacked
from schemas.row_problem import FieldError, RowProblem, shown
from schemas.task import GroundTruth, Task

__all__ = ["Cursor", "Dataset", "DatasetError", "DatasetOptions", "ReadRow", "Sampler", "read", "read_rows"]

IMAGE, VIDEO = "<image>", "<video>"
SHOWN = 10  # rejections listed in an error message
REMEMBERED = 20_000  # image files whose size is kept


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """What to read, and how. `files` are task files, or folders of them.

    `image_dir` holds the images; None means the folder of each task file. Prompts longer than `max_prompt_length` are
    counted and left out, never cut. With `check_images`, every image's header is read, and `damage` may look deeper: it
    is given each image file once, and says what is wrong with it or "".

    >>> DatasetOptions(files=("data/train.jsonl",)).images_key
    'images'
    """

    files: tuple[str, ...]
    prompt_key: str = "prompt"
    ground_truth_key: str = "ground_truth"
    images_key: str = "images"
    videos_key: str = "videos"
    transcript_key: str | None = None  # None leaves transcripts unread
    image_dir: str | None = None
    on_error: Literal["fail", "skip"] = "fail"
    max_prompt_length: int | None = None
    check_images: bool = True
    max_image_pixels: int = MAX_PIXELS
    max_images: int | None = None  # of one task
    damage: Callable[[Path], str] | None = None
    unpack_dir: str | None = None  # where images that a row holds itself are written
    rows_per_file: int | None = None  # the first ones alone


@dataclass(frozen=True, slots=True)
class Dataset:
    """The usable tasks in the order of the files, the rejected rows, and how many prompts were too long.

    >>> Dataset(tasks=(), rejected=(), overlong=2).overlong
    2
    """

    tasks: tuple[Task, ...]
    rejected: tuple[RowProblem, ...]
    overlong: int


def read(options: DatasetOptions, prompt_length: Callable[[Task], int] | None = None) -> Dataset:
    """Reads and checks all files. `prompt_length` counts the tokens of a task's prompt with its images expanded;
    a FieldError of it rejects the row, as does a ValueError, which is then about the prompt.

    Bad rows raise one DatasetError that lists them, or with `on_error="skip"` become `rejected`. A file that cannot
    be read at all, and files without a usable task, raise it in any case.
    """
    if (options.max_prompt_length is None) != (prompt_length is None):
        raise ValueError("max_prompt_length and prompt_length go together: a limit, and what counts the tokens")
    tasks: list[Task] = []
    rejected: list[RowProblem] = []
    overlong = 0
    files = task_files(options.files)
    for row in read_rows(options):
        try:
            if row.errors:
                raise row.errors[0]
            assert row.task is not None
            length = _length(row.task, prompt_length, options.prompt_key)
        except FieldError as error:
            rejected.append(RowProblem.of(error, str(row.file), row.line))
            continue
        if options.max_prompt_length is not None and length > options.max_prompt_length:
            overlong += 1
        else:
            tasks.append(row.task)
    if rejected and options.on_error == "fail":
        raise DatasetError(_summary(rejected))
    if not tasks:
        names = ", ".join(map(str, files))
        detail = f"; {_summary(rejected)}" if rejected else ""
        raise DatasetError(f"{names}: no usable task ({len(rejected)} rejected, {overlong} prompts too long){detail}")
    return Dataset(tuple(tasks), tuple(rejected), overlong)


@dataclass(frozen=True, slots=True)
class ReadRow:
    """One row of a data file as it was read: a task, or all that is wrong with it.

    `images` are the files that the row names, None for one that cannot be used, whatever else is wrong. `sizes` has
    their sizes in the same order, if images are checked, and None for what cannot be read. `fields` is the row as it
    stands in the file.

    >>> ReadRow(Path("train.jsonl"), 1, {"prompt": ""}, None, (FieldError("prompt", "is no question", "give it"),)).task
    """

    file: Path
    line: int
    fields: Mapping[str, Any]
    task: Task | None
    errors: tuple[FieldError, ...]
    images: tuple[Path | None, ...] = ()
    sizes: tuple[Size | None, ...] = ()


def read_rows(options: DatasetOptions) -> Iterator[ReadRow]:
    """Every row of all files, one at a time, so that files of any size can be looked at; `on_error` and
    `max_prompt_length` are `read`'s. Raises DatasetError for a file that cannot be read at all.
    """
    files = task_files(options.files)
    reader = _Reader(options)
    for file, label in zip(files, labels(files), strict=True):
        for row in itertools.islice(data_rows(file), options.rows_per_file):
            if row.error is not None:
                yield ReadRow(row.file, row.number, row.fields, None, (row.error,))
            else:
                yield reader.read(row, f"{label}-{row.index}")


def _length(task: Task, prompt_length: Callable[[Task], int] | None, field: str) -> int:
    if prompt_length is None:
        return 0
    try:
        return prompt_length(task)
    except FieldError:
        raise
    except ValueError as error:
        raise FieldError(field, str(error), "correct the row") from error


def _summary(rejected: Sequence[RowProblem]) -> str:
    shown = "\n".join(f"  {rejection}" for rejection in rejected[:SHOWN])
    more = f"\n  and {len(rejected) - SHOWN} more" if len(rejected) > SHOWN else ""
    return f'{len(rejected)} rows cannot be used; correct them, or set on_error to "skip":\n{shown}{more}'


class _Reader:
    """Makes tasks from rows. Remembers what it found out about image files, which tasks often share."""

    def __init__(self, options: DatasetOptions) -> None:
        self._options = options
        self._folders: dict[Path, Path] = {}
        self._sizes: dict[Path, Size | str] = {}

    def read(self, row: DataRow, task_id: str) -> ReadRow:
        """The row's task, or every FieldError of it; those of a field that another hides come with the next reading."""
        options = self._options
        errors: list[FieldError] = []
        there = ", ".join(map(str, row.fields)) or "no fields"
        for key in (options.prompt_key, options.ground_truth_key, options.images_key):
            if key not in row.fields:
                errors.append(FieldError(key, f"is missing; the row has {there}", "name the right one in data.*_key"))
        errors += _videos(row.fields, options)
        named = self._images(row, errors)
        prompt = truth = None
        if options.prompt_key in row.fields:
            try:
                prompt = _prompt(row.fields[options.prompt_key], options.prompt_key, len(named) or None)
            except FieldError as error:
                errors.append(error)
        if options.ground_truth_key in row.fields:
            truth = truth_or_errors(row.fields[options.ground_truth_key], options.ground_truth_key)
            if not isinstance(truth, GroundTruth):
                errors += truth
        transcript = None
        if options.transcript_key is not None:
            try:
                transcript = read_transcript(row.fields, options.transcript_key)
            except FieldError as error:
                errors.append(error)
        sizes: tuple[Size | None, ...] = ()
        if options.check_images:
            sizes = tuple(
                path and self._size(path, f"{options.images_key}[{i}]", errors) for i, path in enumerate(named)
            )
            if isinstance(truth, GroundTruth) and sizes and sizes[0] is not None:
                errors += truth_errors(truth, sizes[0], options.ground_truth_key)
        task = None
        if not errors and prompt is not None and isinstance(truth, GroundTruth):  # then every image is usable
            task = Task(
                task_id=task_id,
                prompt=prompt,
                images=tuple(map(str, named)),
                image_sizes=tuple((size.width, size.height) for size in sizes if size is not None),
                ground_truth=truth,
                source=f"{row.file}:{row.number}",
                transcript=transcript,
            )
        return ReadRow(row.file, row.number, row.fields, task, tuple(errors), tuple(named), sizes)

    def _images(self, row: DataRow, errors: list[FieldError]) -> list[Path | None]:
        """The image files that a row names, each checked to lie in the folder, or holds. Null and "" mean none.

        None stands for one that cannot be used.
        """
        key = self._options.images_key
        if key not in row.fields:
            return []
        value = row.fields[key]
        items = cast("list[object]", value) if isinstance(value, list) else [value]
        if value is None or value == "" or not items:
            errors.append(FieldError(key, "holds no image", "give one: a ray needs an image to be drawn on"))
            return []
        most = self._options.max_images
        if most is not None and len(items) > most:
            reason = f"holds {len(items)} images, more than data.max_images={most}"
            errors.append(FieldError(key, reason, "raise it, or give fewer"))
        images: list[Path | None] = []
        for i, item in enumerate(items):
            try:
                images.append(self._image(row, item, f"{key}[{i}]"))
            except FieldError as error:
                errors.append(error)
                images.append(None)
        return images

    def _image(self, row: DataRow, item: object, field: str) -> Path:
        if isinstance(item, dict):  # as the datasets library writes an image
            held = cast("dict[str, object]", item)
            item = held.get("bytes") or held.get("path")
        if isinstance(item, bytes):
            return unpacked(item, self._options.unpack_dir, field)
        return _inside(self._folder(row.file.parent), item, field)

    def _folder(self, beside: Path) -> Path:
        given = self._options.image_dir
        folder = beside if given is None else Path(given)
        if folder not in self._folders:
            if not folder.is_dir():
                raise DatasetError(f"image_dir {folder}: no such folder")
            self._folders[folder] = folder.resolve()
        return self._folders[folder]

    def _size(self, path: Path, field: str, errors: list[FieldError]) -> Size | None:
        if path not in self._sizes:
            if len(self._sizes) >= REMEMBERED:  # the oldest: rows that share an image mostly stand together
                del self._sizes[next(iter(self._sizes))]
            try:
                self._sizes[path] = image_size(path, self._options.max_image_pixels)
                if self._options.damage is not None and (said := self._options.damage(path)):
                    raise ImageError(f"{path}: {said}")
            except ImageError as error:
                self._sizes[path] = str(error)
        size = self._sizes[path]
        if isinstance(size, str):
            errors.append(FieldError(field, size, "replace the file, or leave the row out"))
            return None
        return size


def _videos(fields: Mapping[str, Any], options: DatasetOptions) -> Iterator[FieldError]:
    """What a row with a video is refused for: no part of the path takes one, and its mark would be read as text."""
    remedy = "give frames of it as images, or leave the row out"
    if fields.get(options.videos_key) not in (None, "", []):
        value = shown(fields[options.videos_key])
        yield FieldError(options.videos_key, "videos are not supported", remedy, value)
    if VIDEO in str(fields.get(options.prompt_key)):
        yield FieldError(options.prompt_key, f"has a {VIDEO} placeholder, and videos are not supported", remedy)


def _inside(folder: Path, name: object, field: str) -> Path:
    if not isinstance(name, str) or not name:
        raise FieldError(field, "is no path", "give the path of a file relative to image_dir", shown(name))
    try:
        path = (folder / name).resolve()  # follows links, so one that leads out of the folder is seen
        exists = path.is_file()
    except (OSError, ValueError) as error:
        raise FieldError(field, f"is not a usable path ({error})", "correct it", shown(name)) from error
    if not path.is_relative_to(folder):
        remedy = "put it inside or widen data.image_dir"
        raise FieldError(field, f"lies outside image_dir {folder}", remedy, shown(name))
    if not exists:
        raise FieldError(field, f"no such file: {path}", "correct it, or set data.image_dir", shown(name))
    return path


def _prompt(value: object, key: str, n_images: int | None) -> str:
    """The prompt, with placeholders put before one that has none. Without a number of images they are not counted."""
    if not isinstance(value, str) or not value.replace(IMAGE, "").strip():
        raise FieldError(key, "is no question", "give the question as text", shown(value))
    found = value.count(IMAGE)
    if n_images is None:
        return value
    if not found:
        return IMAGE * n_images + value
    if found != n_images:
        reason = f"has {found} {IMAGE} placeholders for {n_images} images"
        raise FieldError(key, reason, "write one each, or none at all", shown(value))
    return value
