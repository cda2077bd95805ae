"""The updates since the last checkpoint, kept so that a rebuilt group can repeat them without generating again.

    update of step 12 --tables, by reference--> a task writes --> replay/learner/step-000012/0.arrow, 1.arrow, ...
    checkpoint of step 13 complete -----------> step-000012/ is deleted

The driver passes references on and never holds a table: image tables go from the object store to the file and back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray


def write_tables(files: Sequence[str], *tables: pa.Table) -> None:
    """Writes Arrow IPC files, each beside, then renamed."""
    for file, table in zip(files, tables, strict=True):
        partial = Path(f"{file}.partial")
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        partial.rename(file)


def read_table(file: str) -> pa.Table:
    """The table of an Arrow IPC file."""
    with pa.memory_map(file) as source:
        return pa.ipc.open_file(source).read_all()


@dataclass(frozen=True, slots=True)
class Entry:
    """One update: the method and its arguments, a file in place of each table, and the task that writes the files.

    >>> Entry(12, "update", (Path("0.arrow"), 0.05), None).step
    12
    """

    step: int
    method: str
    arguments: tuple[Any, ...]
    written: Any


class Journal:
    """Updates of one group in the order they were made. The folder must be one that every node sees."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        """What an earlier process left is deleted: its run continues from the checkpoint."""
        shutil.rmtree(folder, ignore_errors=True)
        self._folder = folder
        self._timeout_s = timeout_s
        self._entries: list[Entry] = []
        self._write = ray.remote(num_cpus=0)(write_tables)
        self._read = ray.remote(num_cpus=0)(read_table)

    def record(self, step: int, method: str, arguments: Sequence[Any]) -> None:
        """Notes the update of `step`. Arguments that are references to tables are written while the update runs.

        Raises the error of an earlier write that failed, a full disk say.
        """
        for entry in self._entries:
            ray.get(ray.wait([entry.written], timeout=0)[0])
        folder = self._folder / f"step-{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        kept: list[Any] = []
        for argument in arguments:
            if isinstance(argument, ray.ObjectRef):
                files.append(folder.absolute() / f"{len(files)}.arrow")
                kept.append(files[-1])
            else:
                kept.append(argument)
        tables = [argument for argument in arguments if isinstance(argument, ray.ObjectRef)]
        written = self._write.remote([str(file) for file in files], *tables)
        self._entries.append(Entry(step, method, tuple(kept), written))

    def between(self, first: int, end: int) -> Iterator[Entry]:
        """The updates of steps `first` to `end` - 1, with references to their tables in place of files."""
        for entry in self._entries:
            if first <= entry.step < end:
                ray.get(entry.written, timeout=self._timeout_s)
                arguments = [self._read.remote(str(a)) if isinstance(a, Path) else a for a in entry.arguments]
                yield replace(entry, arguments=tuple(arguments))

    def trim(self, step: int) -> None:
        """Deletes the updates before `step`, whose checkpoint is complete."""
        for entry in [entry for entry in self._entries if entry.step < step]:
            ray.wait([entry.written], timeout=self._timeout_s)
            shutil.rmtree(self._folder / f"step-{entry.step:06d}")
            self._entries.remove(entry)
