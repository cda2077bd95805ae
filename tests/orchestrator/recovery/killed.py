"""A writer of checkpoints that is killed over and over; see test_checkpoints.py.

python -m tests.orchestrator.recovery.killed FOLDER ROUNDS     prints one JSON object a round

Each round forks a process that continues from the newest checkpoint, saves at every step while it trains, and prunes;
this one kills it at a random moment and looks at what is left.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from files.crash_safe import restore_folders
from orchestrator.run_folder.checkpoints import Checkpoints, continue_from
from orchestrator.run_folder.folder import RunFolder
from orchestrator.run_folder.mirror import NoMirror
from policy.state.checkpoint import CheckpointError, Saver, load, read_extra
from schemas.config import Checkpoint, Run


class Trainer:
    """A learner of a few numbers: its weight counts the steps."""

    def __init__(self) -> None:
        self.network: Any = torch.nn.Linear(64, 64)
        torch.nn.init.zeros_(self.network.weight)
        self.optimiser = torch.optim.SGD(self.network.parameters(), lr=1.0, momentum=0.5)
        self._saver = Saver()

    def step(self) -> None:
        with torch.no_grad():
            self.network.weight += 1

    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        failure = self.finish_save()
        self._saver.begin(folder, self.network, self.optimiser, {}, extra)
        return failure

    def finish_save(self) -> str | None:
        try:
            self._saver.finish()
        except CheckpointError as error:
            return str(error)
        return None


def begin(folder: RunFolder) -> tuple[Trainer, int | None]:
    """As a run does: the newest checkpoint that is whole."""
    restore_folders(folder.checkpoints)
    trainer = Trainer()
    found = continue_from(folder, Run(), print)
    if found is not None:
        load(folder.checkpoint(found), trainer.network, trainer.optimiser)
    return trainer, found


def write(folder: RunFolder, told: int) -> None:
    """Trains until killed; tells every step whose checkpoint is about to be written."""
    trainer, found = begin(folder)
    saved = Checkpoints(trainer, folder, Checkpoint(keep=1), settings="", say=print, last=None, mirror=NoMirror())
    step = found or 0
    while True:
        saved.save(step, {"step": step})  # the first time over the checkpoint that it continues from
        os.write(told, f"{step}\n".encode())
        trainer.step()
        step += 1


def look(folder: RunFolder) -> int | None:
    """The step of the checkpoint that a new process would continue from, its weights proved to be that step's."""
    trainer, found = begin(folder)
    if found is not None:
        assert read_extra(folder.checkpoint(found))["step"] == found
        assert bool((trainer.network.weight == found).all())
    return found


def main(folder: RunFolder, rounds: int) -> None:
    torch.set_num_threads(1)
    folder.checkpoints.mkdir(parents=True)
    chance = random.Random(7)
    for _ in range(rounds):
        reader, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            write(folder, told)
        os.close(told)
        time.sleep(chance.uniform(0.0, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reader) as stream:
            begun = [int(line) for line in stream.read().split("\n") if line]
        print(json.dumps({"begun": max(begun, default=None), "found": look(folder)}), flush=True)


if __name__ == "__main__":
    main(RunFolder(Path(sys.argv[1])), int(sys.argv[2]))
