"""Reads task files and checks all of them before a run begins.

    .jsonl / .json / .parquet -> rows -> fields by configured keys -> Task, or RowProblem(file, line, field, ...)

The order of tasks is that of the files; which are dealt out when is the sampler's business.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pointing.coordinates import Size
from pointing.drawing import MAX_PIXELS, ImageError
from pointing.ground_truth import read_ground_truth
from pointing.image_check import image_size
from pointing.sampler import Cursor, Sampler
from pointing.truth_check import check_truth
from pointing.unpack import unpacked
from schemas.row_problem import FieldError, RowProblem, shown
from schemas.task import Task

__all__ = ["Cursor", "Dataset", "DatasetError", "DatasetOptions", "Sampler", "read"]

SUFFIXES = (".jsonl", ".json", ".parquet")
IMAGE, VIDEO = "<image>", "<video>"
SHOWN = 10  # rejections listed in an error message


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


class DatasetError(ValueError):
    """Task files cannot be used; the message names files, rows and fields."""


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
    files = _files(options.files)
    reader = _Reader(options)
    for file, label in zip(files, _labels(files), strict=True):
        for row in itertools.islice(_rows(file), options.rows_per_file):
            if row.error is not None:
                rejected.append(RowProblem.of(row.error, str(file), row.number))
                continue
            try:
                task = reader.task(row, f"{label}-{row.index}")
                length = _length(task, prompt_length, options.prompt_key)
            except FieldError as error:
                rejected.append(RowProblem.of(error, str(file), row.number))
                continue
            if options.max_prompt_length is not None and length > options.max_prompt_length:
                overlong += 1
            else:
                tasks.append(task)
    if rejected and options.on_error == "fail":
        raise DatasetError(_summary(rejected))
    if not tasks:
        names = ", ".join(map(str, files))
        detail = f"; {_summary(rejected)}" if rejected else ""
        raise DatasetError(f"{names}: no usable task ({len(rejected)} rejected, {overlong} prompts too long){detail}")
    return Dataset(tuple(tasks), tuple(rejected), overlong)


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


def _files(given: Sequence[str]) -> list[Path]:
    """The task files, folders replaced by the task files in them (by name, without sub-folders)."""
    files: list[Path] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
            if not inside:
                raise DatasetError(f"{path}: a folder without {', '.join(SUFFIXES)} files")
            files += inside
        elif not path.is_file():
            raise DatasetError(f"{path}: no such file or folder")
        elif path.suffix not in SUFFIXES:
            raise DatasetError(
                f"{path}: {path.suffix or 'no suffix'} is not one of {', '.join(SUFFIXES)}; give a task file"
            )
        else:
            files.append(path)
    if not files:
        raise DatasetError("no task files are given")
    return files


def _labels(files: Sequence[Path]) -> list[str]:
    """A short name of each file, different for all: the start of its tasks' ids."""
    stems = [file.stem for file in files]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{number}.{stem}" for number, stem in enumerate(stems)]


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a file: its index from 0, and the number that people know it by. `error` says why it has no fields."""

    file: Path
    index: int
    number: int
    fields: Mapping[str, Any]
    error: FieldError | None = None


def _rows(file: Path) -> Iterator[_Row]:
    reader = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}[file.suffix]
    for index, (number, value) in enumerate(reader(file)):
        if isinstance(value, Exception):
            yield _Row(file, index, number, {}, FieldError("row", f"not JSON ({value})", "write one object a line"))
        elif not isinstance(value, dict):
            what = f"is a {type(value).__name__}, not an object with fields"
            yield _Row(file, index, number, {}, FieldError("row", what, "write an object", shown(value)))
        else:
            yield _Row(file, index, number, cast("dict[str, Any]", value))


def _jsonl(file: Path) -> Iterator[tuple[int, object]]:
    """(line number from 1, value or the error of reading it); blank lines are passed over."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError) as error:
                    yield number, error


def _json(file: Path) -> Iterator[tuple[int, object]]:
    try:
        rows: object = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: not JSON ({error}); one object per line goes into a .jsonl file") from error
    if not isinstance(rows, list):
        raise DatasetError(f"{file}: holds a {type(rows).__name__}; expected a list of objects")
    return enumerate(cast("list[object]", rows), start=1)


def _parquet(file: Path) -> Iterator[tuple[int, object]]:
    number = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        raise DatasetError(f"{file}: cannot be read as Parquet after row {number} ({error})") from error


class _Reader:
    """Makes tasks from rows. Remembers what it found out about image files, which tasks often share."""

    def __init__(self, options: DatasetOptions) -> None:
        self._options = options
        self._folders: dict[Path, Path] = {}
        self._sizes: dict[Path, Size | str] = {}

    def task(self, row: _Row, task_id: str) -> Task:
        """The task of a row. Raises FieldError."""
        options = self._options
        for key in (options.prompt_key, options.ground_truth_key, options.images_key):
            if key not in row.fields:
                there = ", ".join(map(str, row.fields)) or "no fields"
                raise FieldError(key, f"is missing; the row has {there}", "name the right one in data.*_key")
        _refuse_videos(row.fields, options)
        images = self._images(row)
        if not images:
            raise FieldError(options.images_key, "holds no image", "give one: a ray needs an image to be drawn on")
        if options.max_images is not None and len(images) > options.max_images:
            raise FieldError(
                options.images_key,
                f"holds {len(images)} images, more than data.max_images={options.max_images}",
                "raise it, or give fewer",
            )
        prompt = _prompt(row.fields[options.prompt_key], options.prompt_key, len(images))
        truth = read_ground_truth(row.fields[options.ground_truth_key], options.ground_truth_key)
        if options.check_images:
            sizes = [self._size(path, f"{options.images_key}[{i}]") for i, path in enumerate(images)]
            check_truth(truth, sizes[0], options.ground_truth_key)
        return Task(
            task_id=task_id,
            prompt=prompt,
            images=tuple(map(str, images)),
            ground_truth=truth,
            source=f"{row.file}:{row.number}",
        )

    def _images(self, row: _Row) -> list[Path]:
        """The image files that a row names, each checked to lie in the folder, or holds. Null and "" mean none."""
        key = self._options.images_key
        value = row.fields[key]
        if value is None or value == "":
            return []
        items = cast("list[object]", value) if isinstance(value, list) else [value]
        return [self._image(row, item, f"{key}[{i}]") for i, item in enumerate(items)]

    def _image(self, row: _Row, item: object, field: str) -> Path:
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

    def _size(self, path: Path, field: str) -> Size:
        if path not in self._sizes:
            try:
                self._sizes[path] = image_size(path, self._options.max_image_pixels)
                if self._options.damage is not None and (said := self._options.damage(path)):
                    raise ImageError(f"{path}: {said}")
            except ImageError as error:
                self._sizes[path] = str(error)
        size = self._sizes[path]
        if isinstance(size, str):
            raise FieldError(field, size, "replace the file, or leave the row out")
        return size


def _refuse_videos(fields: Mapping[str, Any], options: DatasetOptions) -> None:
    """Raises FieldError for a row with a video: no part of the path takes one, and its mark would be read as text."""
    remedy = "give frames of it as images, or leave the row out"
    if fields.get(options.videos_key) not in (None, "", []):
        value = shown(fields[options.videos_key])
        raise FieldError(options.videos_key, "videos are not supported", remedy, value)
    if VIDEO in str(fields[options.prompt_key]):
        raise FieldError(options.prompt_key, f"has a {VIDEO} placeholder, and videos are not supported", remedy)


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


def _prompt(value: object, key: str, n_images: int) -> str:
    """The prompt, with placeholders put before one that has none."""
    if not isinstance(value, str) or not value.replace(IMAGE, "").strip():
        raise FieldError(key, "is no question", "give the question as text", shown(value))
    found = value.count(IMAGE)
    if not found:
        return IMAGE * n_images + value
    if found != n_images:
        reason = f"has {found} {IMAGE} placeholders for {n_images} images"
        raise FieldError(key, reason, "write one each, or none at all", shown(value))
    return value
