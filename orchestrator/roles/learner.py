"""The learner as the driver sees it: a batch in, a report out; its weights for the engines; its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from actors.group import ActorGroup, Limits, stored
from actors.learner import LearnerActor
from orchestrator.recovery.durable_group import DurableGroup
from orchestrator.recovery.recoveries import Recoveries
from orchestrator.run_folder.folder import run_folder
from orchestrator.telemetry.stage_seconds import timed
from policy.learning.learner import UpdateReport
from schemas.config import TrainConfig


class LearnerRole:
    """All learner ranks; each call runs on every rank, and survives the loss of any of them."""

    def __init__(self, config: TrainConfig, total_steps: int, recoveries: Recoveries) -> None:
        resources = config.resources
        optimiser_steps = (total_steps - config.pretrain_steps) * config.plan.optimiser_steps
        self._ranks_of_a_copy = config.learner.sharding.ranks or resources.learner.count
        group = ActorGroup.spawn(
            "learner",
            LearnerActor,
            resources.learner,
            resources.threads,
            arguments=lambda rank: (rank, resources.learner.count, config, optimiser_steps),
            limits=Limits.of(resources),
        )
        self.group = DurableGroup(group, run_folder(config.run), recoveries, config.checkpoint)

    def start(self, checkpoint: str | None) -> None:
        """Builds the sharded model, from a checkpoint if given."""
        self.group.start(checkpoint)

    @timed("update")
    def update(self, training: pa.Table, images: Sequence[Any], kl_coefficient: float) -> UpdateReport:
        """One training step on the whole batch. The report is already summed over ranks."""
        return self.group.begin_update(LearnerActor.update, stored(training), kl_coefficient, *images).result()[0]

    def connect_engines(self, engines: Sequence[Any]) -> None:
        """Opens the NCCL way from rank 0 to the rollout actors."""
        self.group.meet(LearnerActor.connect_engines, list(engines))

    def send_weights(self) -> None:
        """Broadcasts the weights to the connected engines."""
        self.group.call(LearnerActor.send_weights)

    def local_shards(self) -> list[Any]:
        """A reference to each rank's rows of the parameters, in order of rank; those of one copy if there are more.

        All are there.
        """
        return self.group.hand_over(LearnerActor.local_shards, self._ranks_of_a_copy)

    def saved(self, step: int) -> None:
        """The checkpoint of `step` is complete."""
        self.group.saved(step)

    @timed("checkpoint")
    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        """Starts to write a checkpoint from all ranks. Returns why the one before could not be written."""
        return self.group.call(LearnerActor.begin_save, folder, extra)[0]

    @timed("checkpoint")
    def finish_save(self) -> str | None:
        """Waits for the checkpoint that is being written. Returns why it could not be."""
        return self.group.call(LearnerActor.finish_save)[0]

    def export(self, folder: str) -> None:
        """Writes the model as a Hugging Face checkpoint."""
        self.group.call(LearnerActor.export, folder)
