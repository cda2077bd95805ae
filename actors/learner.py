"""A learner rank: the FSDP2 policy behind explicit calls.

address -> start (process group, model, checkpoint) -> update* -> local_shards / save / export
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from actors.process_group import RankActor
from policy.learning.learner import NonFiniteError, PolicyLearner, UpdateReport
from policy.learning.policy_batch import write_batch
from schemas import batch


class LearnerActor(RankActor):
    """One rank of the policy."""

    def start(self, host: str, port: int, checkpoint: str | None) -> dict[str, Any]:
        """Joins the process group and builds the model; returns the extra state of the checkpoint, {} without one."""
        self.join(host, port, gpus=self._config.resources.learner.gpus)
        self._learner = PolicyLearner(
            self._config.model,
            self._config.learner,
            self._config.algorithm,
            total_steps=self._total_steps,
            temperature=self._config.rollout.sampling.temperature,
            seed=self._config.run.seed,
        )
        return self._learner.load(checkpoint) if checkpoint else {}

    def update(self, training: pa.Table, kl_coefficient: float, *images: pa.Table) -> UpdateReport:
        """Trains on the rows of this rank; `images` are the image tables of all shards of the batch.

        Raises NonFiniteError when too many steps were skipped; rank 0 then leaves the batch in the run folder.
        """
        batch.check(training, batch.TRAINING, f"learner rank {self._rank}")
        try:
            return self._learner.update(training, images, kl_coefficient)
        except NonFiniteError as error:
            run = self._config.run
            kept = Path(run.folder) / run.name / "bad_batches" / f"after-{self._learner.steps_taken:06d}"
            if self._rank == 0:
                write_batch(kept, training, images)
            raise NonFiniteError(f"{error}. Its batch is in {kept}") from error

    def local_shards(self) -> tuple[int, dict[str, np.ndarray]]:
        """The optimiser steps taken, and this rank's rows of every parameter, for the engines to join."""
        return self._learner.steps_taken, self._learner.local_shards()

    def connect_engines(self, host: str, port: int, engines: Sequence[Any]) -> None:
        """Opens the NCCL way to the rollout actors; every rank, once."""
        from actors.nccl import PolicySource, Receivers, open_sender

        engine = self._config.rollout.engine
        source = PolicySource(self._learner.policy, getattr(torch, engine.dtype))
        limit = self._config.resources.call_timeout_s
        receivers = Receivers(tuple(engines), engine.tensor_parallel_size, limit)
        self._sender = open_sender(source, receivers, rank=self._rank, host=host, port=port)

    def send_weights(self) -> None:
        """Publishes over NCCL; every rank, since gathering a weight takes them all."""
        self._sender.send_weights()

    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        """Starts to write a checkpoint of the state as it is now; returns why the one before could not be written."""
        return self._learner.begin_save(folder, extra)

    def finish_save(self) -> str | None:
        """Waits for the checkpoint that is being written; returns why it could not be."""
        return self._learner.finish_save()

    def export(self, folder: str) -> None:
        """Writes the model as a Hugging Face checkpoint (rank 0 writes)."""
        self._learner.export(folder)
