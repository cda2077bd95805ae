"""Splits a data file so that no image, and nothing that rows share by a field, lies on two sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from files.owned import holds, refuse_folder, writing_folder
from pointing.curation.groups import Groups, SideCount
from pointing.curation.places import file_digest, key_of
from pointing.curation.row_writer import RowWriter
from pointing.data_rows import DatasetError, data_rows, task_files
from pointing.dataset import REMEMBERED, SHOWN, DatasetOptions, read_rows
from schemas.row_problem import FieldError, RowProblem

IMAGE = "image"
BY = "pointvg data split"


class SplitError(ValueError):
    """A file cannot be split as asked; the message names the option and what to do."""


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How to split. `by` is "image" or a field whose rows of one value stay together; images stay together in any case.

    `shares` of the sides are positive and add up to 1.

    >>> SplitOptions({"train": 0.9, "test": 0.1}).by
    'image'
    """

    shares: Mapping[str, float]
    by: str = IMAGE
    seed: int = 0

    def __post_init__(self) -> None:
        for name, share in self.shares.items():
            if not name.isidentifier():
                raise SplitError(f"--shares {name!r}: is no name for a file; use letters, digits and underscores")
            if not (math.isfinite(share) and share > 0):
                raise SplitError(f"--shares {name}={share}: give a share above 0, or leave the side out")
        total = math.fsum(self.shares.values())
        if len(self.shares) < 2 or not math.isclose(total, 1.0, abs_tol=1e-6):
            raise SplitError(
                f"--shares add up to {total:g} on {len(self.shares)} sides; give two sides or more that add up to 1"
            )


def split(
    data: DatasetOptions,
    options: SplitOptions,
    out: Path,
    *,
    overwrite: bool = False,
    row_read: Callable[[], None] = lambda: None,
) -> tuple[SideCount, ...]:
    """Writes a file of each side's rows, as they are and in their order, into the folder `out`.

    The same file, shares, field and seed give the same sides. A folder that holds exactly this split is left alone, and
    its files are written again otherwise.

    Raises DatasetError for rows that cannot be used, SplitError where a side would be empty, and ExistsError where
    something would be replaced.
    """
    (file,) = task_files(data.files)
    about = {
        "file": file_digest(file).hex(),
        "shares": dict(options.shares),
        "by": options.by,
        "seed": options.seed,
    }
    if not holds(out, about):
        refuse_folder(out, overwrite=overwrite)
    with Groups() as groups:
        for keys in _keys(data, options.by, row_read):
            groups.add(keys)
        counts = groups.deal(options.shares, options.seed)
        empty = [count.name for count in counts if not count.rows]
        if empty:
            found = sum(count.groups for count in counts)
            raise SplitError(
                f"{file}: nothing is left for {', '.join(empty)}: its rows are {found} groups that must stay together; "
                "give fewer sides, or split by a field with more values"
            )
        if holds(out, about):
            return counts
        with writing_folder(out, BY, overwrite=overwrite, about=about) as folder, ExitStack() as stack:
            writers = {name: stack.enter_context(RowWriter(folder / name, file)) for name in options.shares}
            for row, side in zip(data_rows(file), groups.sides(), strict=True):
                writers[side].write(row.fields)
    return counts


def _keys(data: DatasetOptions, by: str, row_read: Callable[[], None]) -> Iterator[list[bytes]]:
    """What each row shares with others. Raises DatasetError after the last row where some cannot be used."""
    digest = lru_cache(maxsize=REMEMBERED)(file_digest)
    problems: list[RowProblem] = []
    count = 0
    for row in read_rows(data):
        errors = list(row.errors)
        value = row.fields.get(by)
        if by != IMAGE and (value is None or value == ""):
            errors.append(FieldError(by, "is missing, and rows are to be split by it", "add it, or split by another"))
        if errors:
            count += 1
            problems += [RowProblem.of(error, str(row.file), row.line) for error in errors][: SHOWN - len(problems)]
        else:
            keys = [digest(path) for path in row.images if path is not None]
            yield keys if by == IMAGE else [*keys, key_of(by, str(value))]
        row_read()
    if count:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise DatasetError(f"{count} rows cannot be used; pointvg data check names all problems:\n{lines}")
