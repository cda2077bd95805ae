"""Task files as rows: which files there are, and what stands in each, one row at a time.

    .jsonl / .json / .parquet -> DataRow(file, index, number, fields, or what is wrong with it)

JSONL and Parquet are read in pieces, whatever their size; a .json file is one value and is read whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.row_problem import FieldError, shown

SUFFIXES = (".jsonl", ".json", ".parquet")


class DatasetError(ValueError):
    """Task files cannot be used; the message names files, rows and fields."""


def task_files(given: Sequence[str]) -> list[Path]:
    """The task files, folders replaced by the task files in them (by name, without sub-folders).

    Raises DatasetError for one that is not there or has another suffix, and where there is none at all.
    """
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


def labels(files: Sequence[Path]) -> list[str]:
    """A short name of each file, different for all: the start of its tasks' ids."""
    stems = [file.stem for file in files]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{number}.{stem}" for number, stem in enumerate(stems)]


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row of a file: its index from 0, and the number that people know it by. `error` says why it has no fields.

    >>> DataRow(Path("train.jsonl"), 0, 1, {"prompt": "What is it?"}).error is None
    True
    """

    file: Path
    index: int
    number: int
    fields: Mapping[str, Any]
    error: FieldError | None = None


def data_rows(file: Path) -> Iterator[DataRow]:
    """The rows of one of `task_files`, in order. Raises DatasetError where the file as a whole cannot be read."""
    reader = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}[file.suffix]
    for index, (number, value) in enumerate(reader(file)):
        if isinstance(value, Exception):
            yield DataRow(file, index, number, {}, FieldError("row", f"not JSON ({value})", "write one object a line"))
        elif not isinstance(value, dict):
            what = f"is a {type(value).__name__}, not an object with fields"
            yield DataRow(file, index, number, {}, FieldError("row", what, "write an object", shown(value)))
        else:
            yield DataRow(file, index, number, cast("dict[str, Any]", value))


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


def count_rows(file: Path) -> int:
    """How many rows a file has, for showing how far the reading is: 0 where only reading it would tell."""
    if file.suffix == ".jsonl":
        with file.open("rb") as stream:
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    if file.suffix == ".parquet":
        try:
            return pq.read_metadata(file).num_rows
        except pa.ArrowException:
            return 0
    return 0
