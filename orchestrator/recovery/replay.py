"""The updates since a checkpoint, kept so that a rebuilt group can repeat them without generating again.

    update of step 12 --tables, by reference--> a task writes --> replay/learner/step-000012/0.arrow, 1.arrow, ...
                                                          '-----> their digests, to the driver
    rebuilt from an earlier checkpoint -------> a task reads, and compares the digests
    no checkpoint before step 13 is needed ---> step-000012/ is deleted

The driver passes references on and never holds a table: image tables go from the object store to the file and back.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from actors.table_files import read_table, write_tables
from files.crash_safe import Digest, explain
from policy.state.checkpoint import CheckpointError
from schemas.config import OnError


@dataclass(frozen=True, slots=True)
class Entry:
    """One update: the method and its arguments, a file in place of each table, and the task that writes the files.

    >>> Entry(12, max, (Path("0.arrow"), 0.05), None).step  # in a run: LearnerActor.update
    12
    """

    step: int
    method: Callable[..., Any]
    arguments: tuple[Any, ...]
    written: Any


class Journal:
    """Updates of one group in the order they were made. The folder must be one that every node sees."""

    def __init__(self, folder: Path, timeout_s: float, on_error: OnError) -> None:
        """What an earlier process left is deleted: its run continues from the checkpoint.

        `on_error` says what tables that cannot be written do to the run, as it does for checkpoints. Raises OSError
        when something cannot be deleted: it would be taken for tables of this run.
        """
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        self._folder = folder.absolute()
        self._timeout_s = timeout_s
        self._on_error = on_error
        self._entries: list[Entry] = []
        self._writing: list[Entry] = []  # those not yet known to be written, or not to be
        self._write: Any = ray.remote(num_cpus=0)(write_tables)
        self._read: Any = ray.remote(num_cpus=0, num_returns=2)(read_table)

    def record(self, step: int, method: Callable[..., Any], arguments: Sequence[Any]) -> None:
        """Notes the update of `step`. Arguments that are references to tables are written while the update runs.

        Raises CheckpointError when the tables of an earlier one could not be written, unless the run is to go on.
        """
        for entry in [entry for entry in self._writing if ray.wait([entry.written], timeout=0)[0]]:
            self._writing.remove(entry)
            failure = self._failure(entry)
            if failure and self._on_error == "stop":
                raise CheckpointError(f"{failure}. checkpoint.on_error=continue goes on without")
            if failure:
                print(f"NO REPLAY    {failure}. The run goes on (checkpoint.on_error=continue)", flush=True)
        folder = self._of(step)
        tables = [argument for argument in arguments if isinstance(argument, ray.ObjectRef)]
        files = iter(folder / f"{number}.arrow" for number in range(len(tables)))
        kept = tuple(next(files) if isinstance(argument, ray.ObjectRef) else argument for argument in arguments)
        entry = Entry(step, method, kept, self._write.remote(str(folder), *tables))
        self._entries.append(entry)
        self._writing.append(entry)

    def between(self, first: int, end: int) -> Iterator[tuple[Entry, list[Any]]]:
        """The updates of steps `first` to `end` - 1, each with its arguments: references to tables in place of files.

        Raises CheckpointError for one whose tables could not be written, or are not any more what was written.
        """
        for entry in self._entries:
            if first <= entry.step < end:
                failure = self._failure(entry)
                arguments = list(entry.arguments)
                if failure is None:
                    failure, arguments = self._arguments(entry)
                if failure:
                    raise CheckpointError(
                        f"{failure}. The update of step {entry.step} cannot be repeated; the same command continues "
                        "from the last checkpoint"
                    )
                yield entry, arguments

    def _arguments(self, entry: Entry) -> tuple[str, list[Any]]:
        """What is wrong with an update's files, "" for nothing; and its arguments, with references to tables."""
        digests: dict[str, Digest] = ray.get(entry.written, timeout=self._timeout_s)
        arguments = list(entry.arguments)
        for number, argument in enumerate(arguments):
            if isinstance(argument, Path):
                wrong, arguments[number] = self._read.remote(str(argument), digests[argument.name])
                try:
                    reason = str(ray.get(wrong, timeout=self._timeout_s))
                except RayError as error:
                    reason = f"{argument} could not be read: {_explained(error)}"
                if reason:
                    return reason, arguments
        return "", arguments

    def trim(self, step: int) -> None:
        """Deletes the updates before `step`: whoever is rebuilt starts there or later."""
        for entry in [entry for entry in self._entries if entry.step < step]:
            ray.wait([entry.written], timeout=self._timeout_s)
            shutil.rmtree(self._of(entry.step), ignore_errors=True)
            self._entries.remove(entry)
        self._writing = [entry for entry in self._writing if entry.step >= step]

    def _of(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def _failure(self, entry: Entry) -> str | None:
        """Says that an update's tables could not be written, or not in time; None once they are there."""
        try:
            ray.get(entry.written, timeout=self._timeout_s)
        except RayError as error:
            name, folder = entry.method.__name__, self._of(entry.step)
            return f"{folder}: the tables of {name} could not be written: {_explained(error)}"
        return None


def _explained(error: RayError) -> str:
    return explain(error.cause if isinstance(error, RayTaskError) else error)
