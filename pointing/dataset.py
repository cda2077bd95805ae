"""Reads task files and checks all of them before a run begins.

    .jsonl / .json / .parquet -> rows -> fields by configured keys -> Task, or Rejection(source, field, reason)

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
from pointing.ground_truth import FieldError, read_ground_truth
from pointing.image_check import check_inside, image_size
from pointing.sampler import Cursor, Sampler
from schemas.task import Task

__all__ = ["Cursor", "Dataset", "DatasetError", "DatasetOptions", "Rejection", "Sampler", "read"]

SUFFIXES = (".jsonl", ".json", ".parquet")
IMAGE, VIDEO = "<image>", "<video>"
SHOWN = 10  # rejections listed in an error message


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """What to read, and how. `files` are task files, or folders of them.

    `image_dir` holds the images and videos; None means the folder of each task file. Prompts longer than
    `max_prompt_length` are counted and left out, never cut. With `check_images`, every image's header is read.

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
    rows_per_file: int | None = None  # the first ones alone


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that is not used, and why.

    >>> print(Rejection("train.jsonl:3", "images[0]", "no such file: a.png"))
    train.jsonl:3: images[0]: no such file: a.png
    """

    source: str
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.field}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """The usable tasks in the order of the files, the rejected rows, and how many prompts were too long.

    >>> Dataset(tasks=(), rejected=(), overlong=2).overlong
    2
    """

    tasks: tuple[Task, ...]
    rejected: tuple[Rejection, ...]
    overlong: int


class DatasetError(ValueError):
    """Task files cannot be used; the message names files, rows and fields."""


def read(options: DatasetOptions, prompt_length: Callable[[Task], int] | None = None) -> Dataset:
    """Reads and checks all files. `prompt_length` counts the tokens of a task's prompt with its images expanded;
    a ValueError of it rejects the row.

    Bad rows raise one DatasetError that lists them, or with `on_error="skip"` become `rejected`. A file that cannot
    be read at all, and files without a usable task, raise it in any case.
    """
    if (options.max_prompt_length is None) != (prompt_length is None):
        raise ValueError("max_prompt_length and prompt_length go together: a limit, and what counts the tokens")
    tasks: list[Task] = []
    rejected: list[Rejection] = []
    overlong = 0
    files = _files(options.files)
    reader = _Reader(options)
    for file, label in zip(files, _labels(files), strict=True):
        for row in itertools.islice(_rows(file), options.rows_per_file):
            if row.error is not None:
                rejected.append(Rejection(row.source, "row", row.error))
                continue
            try:
                task = reader.task(row, f"{label}-{row.index}")
                length = _length(task, prompt_length, options.prompt_key)
            except FieldError as error:
                rejected.append(Rejection(row.source, error.field, error.reason))
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
    except ValueError as error:
        raise FieldError(field, str(error)) from error


def _summary(rejected: Sequence[Rejection]) -> str:
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
            raise DatasetError(f"{path}: {path.suffix or 'no suffix'} is not one of {', '.join(SUFFIXES)}")
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
    """One row of a file, from 0. `error` says why it has no fields."""

    source: str
    index: int
    folder: Path
    fields: Mapping[str, Any]
    error: str | None = None


def _rows(file: Path) -> Iterator[_Row]:
    reader = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}[file.suffix]
    for index, (number, value) in enumerate(reader(file)):
        source = f"{file}:{number}"
        if isinstance(value, Exception):
            yield _Row(source, index, file.parent, {}, f"not JSON ({value})")
        elif not isinstance(value, dict):
            yield _Row(source, index, file.parent, {}, f"is a {type(value).__name__}, not an object with fields")
        else:
            yield _Row(source, index, file.parent, cast("dict[str, Any]", value))


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
            for batch in table.iter_batches(batch_size=1024):
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
                raise FieldError(key, f"is missing; the row has {', '.join(map(str, row.fields)) or 'no fields'}")
        folder = self._folder(row.folder)
        images = _media(row.fields[options.images_key], options.images_key, folder)
        videos = _media(row.fields.get(options.videos_key), options.videos_key, folder)
        if not images:
            raise FieldError(options.images_key, "holds no image, and a ray needs one to be drawn on")
        prompt = _prompt(row.fields[options.prompt_key], options.prompt_key, len(images), len(videos))
        truth = read_ground_truth(row.fields[options.ground_truth_key], options.ground_truth_key)
        if options.check_images:
            sizes = [self._size(path, f"{options.images_key}[{i}]") for i, path in enumerate(images)]
            check_inside(truth, sizes[0], options.ground_truth_key)
        return Task(
            task_id=task_id,
            prompt=prompt,
            images=tuple(map(str, images)),
            videos=tuple(map(str, videos)),
            ground_truth=truth,
            source=row.source,
        )

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
            except ImageError as error:
                self._sizes[path] = str(error)
        size = self._sizes[path]
        if isinstance(size, str):
            raise FieldError(field, size)
        return size


def _media(value: object, key: str, folder: Path) -> list[Path]:
    """The files that a row names, each checked to lie in the folder. Null and "" mean none, a text means one."""
    if value is None or value == "":
        return []
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    return [_inside(folder, item, f"{key}[{i}]") for i, item in enumerate(items)]


def _inside(folder: Path, name: object, field: str) -> Path:
    if isinstance(name, dict | bytes):
        raise FieldError(field, "holds the image itself; write it to a file in image_dir and give its path here")
    if not isinstance(name, str) or not name:
        raise FieldError(field, f"is {name!r}; give the path of a file relative to image_dir")
    try:
        path = (folder / name).resolve()  # follows links, so one that leads out of the folder is seen
        exists = path.is_file()
    except (OSError, ValueError) as error:
        raise FieldError(field, f"is not a usable path ({error}): {name[:80]!r}") from error
    if not path.is_relative_to(folder):
        raise FieldError(field, f"{name} lies outside image_dir {folder}; put it inside or widen image_dir")
    if not exists:
        raise FieldError(field, f"no such file: {path}")
    return path


def _prompt(value: object, key: str, n_images: int, n_videos: int) -> str:
    """The prompt, with placeholders put before one that has none."""
    if not isinstance(value, str) or not value.replace(IMAGE, "").replace(VIDEO, "").strip():
        raise FieldError(key, f"is {value!r}; give the question as text")
    for mark, count, what in ((VIDEO, n_videos, "videos"), (IMAGE, n_images, "images")):
        found = value.count(mark)
        if not found:
            value = mark * count + value
        elif found != count:
            raise FieldError(key, f"has {found} {mark} placeholders for {count} {what}; write one each, or none at all")
    return value
