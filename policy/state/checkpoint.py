"""Checkpoints of a learner: written in the background, whole or not at all, checked when they are read.

    begin --copy to host memory--> the next step goes on
                    `-- a thread: step-000050.partial/  state/ (sharded weights and optimiser)  rng-00000.pt ...
                                                        complete.json (digest of every file, counters, extra state)
                        renamed to step-000050/ when every rank has written and all is flushed to disk
    finish: waits for it

`complete.json` is written last, so a folder that has it was written to its end; `verify` says whether it still is what
was written. Weights that are not trained are not written: they are those of the checkpoint that training started from.
A checkpoint can be loaded at another number of ranks.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from files.crash_safe import (
    Digest,
    damage,
    explain,
    flush,
    flushed,
    is_sealed,
    replace_folder,
    sealed,
    write_json,
)
from policy.network.forward import Backbone
from policy.state.safe_state import own_files, read_state, write_state
from policy.state.sharding import rank

COMPLETE = "complete.json"
_TRAINED_ONLY = StateDictOptions(ignore_frozen_params=True, strict=False)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, is missing, not complete or damaged."""


class Saver:
    """Writes the checkpoints of one network, at most one at a time. Every rank holds one and makes the same calls."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """`group` is that of the ranks, a new one by default: the messages of the ranks' steps and those of the writing
        thread must not get mixed up.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._group: Any = dist.new_group(backend="gloo") if group is None and dist.is_initialized() else group
        self._stager = DefaultStager(StagingOptions(False, False, False, False))

    def begin(
        self,
        folder: str | Path,
        network: Backbone,
        optimiser: torch.optim.Optimizer,
        counters: dict[str, Any],
        extra: dict[str, Any],
    ) -> None:
        """Copies trained weights, optimiser and random state to host memory; a thread writes the copy.

        The folder must be on a file system that all ranks see. An older checkpoint of the same name is replaced only
        when the new one is complete. Raises CheckpointError if the checkpoint before could not be written.

        Args:
            folder: the checkpoint's.
            network: what is trained.
            optimiser: its optimiser.
            counters: JSON that `load` returns.
            extra: JSON that `read_extra` returns.
        """
        self.finish()
        weights, moments = get_state_dict(network, optimiser, options=_TRAINED_ONLY)
        copied = self._stager.stage({"weights": weights, "optimiser": moments})
        content = {"counters": counters, "extra": extra}
        self._writing = self._thread.submit(self._write, Path(folder), copied, _random_state(), content)

    def finish(self) -> None:
        """Returns when no checkpoint is being written. Raises CheckpointError, on every rank, if one could not be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, folder: Path, state: Any, random_state: dict[str, Any], content: dict[str, Any]) -> None:
        partial = folder.with_name(folder.name + ".partial")
        mine, first = rank(), rank() == 0

        def prepare() -> None:
            if first:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)

        def write() -> dict[str, Digest]:
            if not partial.is_dir():
                raise FileNotFoundError(
                    f"{partial} was made by rank 0 and is not seen by rank {mine}; share the folder"
                )
            write_state(state, partial / "state", self._group)
            file = partial / f"rng-{mine:05d}.pt"
            torch.save(random_state, file)
            return flushed([*own_files(partial / "state", mine), file], partial)

        def commit() -> None:
            if first:
                digests = {name: digest.to_json() for part in written for name, digest in part.items()}
                flush(partial / "state")
                write_json(partial / COMPLETE, sealed(content | {"files": digests}))
                replace_folder(folder, partial)

        try:
            self._agree(prepare, folder)
            written = self._agree(write, folder)
            self._agree(commit, folder)
        except CheckpointError:
            if first:
                shutil.rmtree(partial, ignore_errors=True)  # gives its space back
            raise

    def _agree(self, work: Callable[[], Any], folder: Path) -> list[Any]:
        """Every rank's result, once all are done; CheckpointError on every rank if any of them failed."""
        try:
            mine: tuple[Any, str | None] = (work(), None)
        except (Exception, CheckpointException) as error:
            mine = (None, _reason(error))
        found: list[Any] = [mine]
        if self._group is not None:
            found = [None] * dist.get_world_size(self._group)
            dist.all_gather_object(found, mine, group=self._group)
        failed = [f"rank {number}: {reason}" for number, (_, reason) in enumerate(found) if reason is not None]
        if failed:
            raise CheckpointError(f"{folder} could not be written: {failed[0]}. Earlier checkpoints are as they were")
        return [result for result, _ in found]


def save(
    folder: str | Path,
    network: Backbone,
    optimiser: torch.optim.Optimizer,
    counters: dict[str, Any],
    extra: dict[str, Any],
) -> None:
    """Writes a checkpoint and waits for it; see Saver."""
    saver = Saver(dist.group.WORLD if dist.is_initialized() else None)
    saver.begin(folder, network, optimiser, counters, extra)
    saver.finish()


def _reason(error: BaseException) -> str:
    """One line; of an error on several ranks, the first rank's own."""
    if isinstance(error, CheckpointException) and error.failures:
        return explain(next(iter(error.failures.values()))[0])
    return explain(error)


def load(folder: str | Path, network: Backbone, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Restores weights, optimiser and random state in place; returns the counters. Every rank must call it.

    Does not look for damage; see verify. Raises CheckpointError if the folder holds no complete checkpoint, or one that
    is not of this network or holds more than tensors and plain values.
    """
    folder = Path(folder)
    counters = _read(folder)["counters"]
    weights, state = get_state_dict(network, optimiser, options=_TRAINED_ONLY)
    stored: dict[str, Any] = {"weights": weights, "optimiser": state}
    try:
        read_state(stored, folder / "state")
    except (CheckpointException, pickle.UnpicklingError, OSError) as error:
        raise CheckpointError(f"{folder} cannot be read: {_reason(error)}") from error
    set_state_dict(
        network,
        optimiser,
        model_state_dict=stored["weights"],
        optim_state_dict=stored["optimiser"],
        options=_TRAINED_ONLY,
    )
    random_state = folder / f"rng-{rank():05d}.pt"
    if random_state.is_file():  # absent for ranks that the run did not have when it was saved
        try:
            _set_random_state(torch.load(random_state, weights_only=True))
        except (pickle.UnpicklingError, KeyError, TypeError) as error:
            raise CheckpointError(f"{random_state} cannot be read: {_reason(error)}") from error
    return counters


def is_complete(folder: str | Path) -> bool:
    """Whether the folder holds a checkpoint that was written to its end."""
    return (Path(folder) / COMPLETE).is_file()


def verify(folder: str | Path) -> None:
    """Reads every file of a checkpoint again. Raises CheckpointError naming what is missing, cut or changed."""
    folder = Path(folder)
    expected = {name: Digest(**saved) for name, saved in _read(folder)["files"].items()}
    wrong = damage(folder, expected)
    if wrong:
        raise CheckpointError(f"{folder}: damaged: {'; '.join(wrong)}")


def read_extra(folder: str | Path) -> dict[str, Any]:
    """The extra state that was saved with a checkpoint. Raises CheckpointError if it is not complete or damaged."""
    return _read(Path(folder))["extra"]


def _read(folder: Path) -> dict[str, Any]:
    if not is_complete(folder):
        state = "was not written to its end" if folder.is_dir() else "does not exist"
        raise CheckpointError(f"{folder}: no checkpoint ({COMPLETE} is missing: the folder {state}); choose another")
    try:
        content = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder}: damaged: {COMPLETE} is not JSON ({error})") from None
    if not is_sealed(content):
        raise CheckpointError(f"{folder}: damaged: {COMPLETE} has other content than was written")
    return content


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
