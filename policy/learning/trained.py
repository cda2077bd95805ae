"""A network that is trained: placed on its ranks, with its optimiser and its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from policy.learning.steps import Steps
from policy.network.forward import Backbone
from policy.state import checkpoint
from policy.state.sharding import compile_blocks, place
from schemas.config import Learner, Model


class Trained:
    """What the learners of policy and critic share. In a process group the network is sharded over all of its ranks,
    and every rank makes the same calls.
    """

    def __init__(
        self,
        network: Backbone,
        model: Model,
        options: Learner,
        *,
        total_steps: int,
        seed: int,
        device: str,
        section: str,
        exact: Sequence[nn.Module] = (),
    ) -> None:
        """Places a network from policy.network.load.load; see sharding.place for `model`, `seed`, `device` and `exact`.

        `total_steps` of the whole run are for the schedule, `section` of the configuration is for messages.
        """
        if options.compile:
            compile_blocks(network)
        place(network, model, options.sharding, device, seed, exact)
        self._network = network
        self._steps = Steps(
            network,
            options.optimiser,
            total_steps=total_steps,
            max_nonfinite_steps=options.max_nonfinite_steps,
            section=section,
        )
        self._saver = checkpoint.Saver()

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """The optimiser of the network."""
        return self._steps.optimiser

    @property
    def steps_taken(self) -> int:
        """Optimiser steps so far, skipped ones too."""
        return self._steps.taken

    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        """Starts to write a checkpoint of the state as it is now, once the one before is done; see checkpoint.Saver.

        Returns why the one before could not be written; None when it was, or when there was none.
        """
        failure = self.finish_save()
        self._saver.begin(folder, self._network, self.optimiser, self._steps.counters(), extra)
        return failure

    def finish_save(self) -> str | None:
        """Waits for the checkpoint that is being written; returns why it could not be, None when it was."""
        try:
            self._saver.finish()
        except checkpoint.CheckpointError as error:
            return str(error)
        return None

    def save(self, folder: str, extra: dict[str, Any]) -> None:
        """Writes a checkpoint; complete on disk when it returns on every rank. Raises CheckpointError if it cannot."""
        self._saver.begin(folder, self._network, self.optimiser, self._steps.counters(), extra)
        self._saver.finish()

    def load(self, folder: str) -> dict[str, Any]:
        """Continues from a checkpoint, written at any number of ranks; returns its extra state."""
        self._steps.restore(checkpoint.load(folder, self._network, self.optimiser))
        return checkpoint.read_extra(folder)
