"""A critic rank: the FSDP2 value network behind explicit calls.

address -> start (process group, model, checkpoint) -> (values* -> update)* -> save
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from actors.process_group import RankActor
from policy.learning.critic import CriticLearner, CriticReport
from schemas import batch


class CriticActor(RankActor):
    """One rank of the critic."""

    def start(self, host: str, port: int, checkpoint: str | None) -> None:
        """Joins the process group and builds the model, from a checkpoint if given."""
        config = self._config
        self.join(host, port, gpus=config.resources.critic.gpus)
        assert config.critic is not None
        self._learner = CriticLearner(config.model, config.critic, total_steps=self._total_steps, seed=config.run.seed)
        if checkpoint:
            self._learner.load(checkpoint)

    def values(self, rollout: pa.Table, images: pa.Table) -> pa.Table:
        """VALUES of this rank's part of a ROLLOUT shard; the ranks' parts are the shard."""
        batch.check(rollout, batch.ROLLOUT, f"critic rank {self._rank}")
        first, last = (rollout.num_rows * r // self._world for r in (self._rank, self._rank + 1))
        mine = rollout.slice(first, last - first)
        columns: dict[str, Any] = {
            "trajectory_id": mine.column("trajectory_id"),
            "values": self._learner.values(mine, [images]),
        }
        return batch.check(pa.table(columns, schema=batch.VALUES), batch.VALUES, "critic result")

    def update(self, lesson: pa.Table, *images: pa.Table) -> CriticReport:
        """Learns the rows of this rank; `images` are the image tables of all shards of the batch."""
        batch.check(lesson, batch.CRITIC, f"critic rank {self._rank}")
        return self._learner.update(lesson, images)

    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        """Starts to write a checkpoint of the state as it is now; returns why the one before could not be written."""
        return self._learner.begin_save(folder, extra)

    def finish_save(self) -> str | None:
        """Waits for the checkpoint that is being written; returns why it could not be."""
        return self._learner.finish_save()
