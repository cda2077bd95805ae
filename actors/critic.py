"""A critic rank: the FSDP2 value network behind explicit calls.

address -> start (process group, model, checkpoint) -> (values* -> update)* -> save
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

from actors import process_group
from policy.critic import CriticLearner, CriticReport
from policy.determinism import be_deterministic
from schemas import batch
from schemas.config import TrainConfig


class CriticActor:
    """Rank `rank` of `world`; every method is called on all ranks at once, with the same arguments."""

    def __init__(self, rank: int, world: int, config: TrainConfig, total_steps: int) -> None:
        self._rank, self._world = rank, world
        self._config = config
        self._total_steps = total_steps
        torch.set_num_threads(config.resources.threads)
        if config.run.deterministic:
            be_deterministic()

    def address(self) -> tuple[str, int]:
        """A host and a free port for the process group; asked of rank 0."""
        return process_group.free_address()

    def start(self, host: str, port: int, checkpoint: str | None) -> None:
        """Joins the process group and builds the model, from a checkpoint if given."""
        config, resources = self._config, self._config.resources
        process_group.join(
            self._rank,
            self._world,
            host,
            port,
            gpus=resources.gpus_per_critic,
            timeout_s=resources.collective_timeout_s,
        )
        assert config.critic is not None
        self._learner = CriticLearner(config.model, config.critic, total_steps=self._total_steps, seed=config.run.seed)
        if checkpoint:
            self._learner.load(checkpoint)

    def values(self, rollout: pa.Table, images: pa.Table) -> pa.Table:
        """VALUES of this rank's part of a ROLLOUT shard; the ranks' parts are the shard."""
        batch.check(rollout, batch.ROLLOUT, f"critic rank {self._rank}")
        first, last = (rollout.num_rows * r // self._world for r in (self._rank, self._rank + 1))
        mine = rollout.slice(first, last - first)
        columns = {"trajectory_id": mine.column("trajectory_id"), "values": self._learner.values(mine, [images])}
        return batch.check(pa.table(columns, schema=batch.VALUES), batch.VALUES, "critic result")

    def update(self, lesson: pa.Table, *images: pa.Table) -> CriticReport:
        """Learns the rows of this rank; `images` are the image tables of all shards of the batch."""
        batch.check(lesson, batch.CRITIC, f"critic rank {self._rank}")
        return self._learner.update(lesson, images)

    def save(self, folder: str, extra: dict[str, Any]) -> None:
        """Writes a checkpoint; complete on disk when it returns."""
        self._learner.save(folder, extra)

    def close(self) -> None:
        """Leaves the process group."""
        dist.destroy_process_group()
