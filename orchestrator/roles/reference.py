"""The reference model as the driver sees it: a shard in, its log-probabilities to wait for, from any replica."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from actors.group import ActorGroup, GroupError, Limits
from actors.reference import ReferenceActor
from orchestrator.recovery.recoveries import Recoveries
from orchestrator.roles.dispatch import ShardRef
from schemas.config import TrainConfig


class PendingLogprobs:
    """REFERENCE rows of one shard on their way."""

    def __init__(self, role: ReferenceRole, shard: ShardRef) -> None:
        self._role = role
        self._shard = shard
        self._rank, self._actor, self._ref = role.send(shard)

    def result(self, *, timeout_s: float) -> pa.Table:
        """The rows. A shard whose replica was lost is sent to another; timeout_s bounds each attempt.

        Raises GroupError, RecoveryLimitError as Recoveries.begin does.
        """
        while True:
            try:
                what, refs = f"logprobs of {self._shard.name}", {self._rank: self._ref}
                return self._role.group.gather(what, refs, timeout_s)[self._rank]
            except GroupError as error:
                self._role.lost(error, self._actor)
                self._rank, self._actor, self._ref = self._role.send(self._shard)


class ReferenceRole:
    """Replicas of the reference model; shards go to them in turn."""

    def __init__(self, config: TrainConfig, recoveries: Recoveries) -> None:
        resources = config.resources
        self._next = 0
        self._recoveries = recoveries
        self.group = ActorGroup.spawn(
            "reference",
            ReferenceActor,
            resources.reference,
            resources.threads,
            arguments=lambda rank: (
                config.model,
                config.learner,
                config.rollout.sampling.temperature,
                resources.threads,
                config.run.deterministic,
            ),
            limits=Limits.of(resources),
        )

    def logprobs(self, shard: ShardRef) -> PendingLogprobs:
        """Starts scoring a shard's tokens."""
        return PendingLogprobs(self, shard)

    def send(self, shard: ShardRef) -> tuple[int, Any, Any]:
        """Sends a shard to the next replica: its rank, its actor, and a reference to the rows."""
        rank = self._next % len(self.group)
        self._next += 1
        actor = self.group.actors[rank]
        return rank, actor, actor.logprobs.remote(shard.rollout, shard.images)

    def lost(self, error: GroupError, actor: Any) -> None:
        """Restarts the replica of a failed call, unless that was done already, and waits until it has its model."""
        rank = error.ranks[0]
        if self.group.actors[rank] is not actor:
            return
        loss = self._recoveries.begin(error, self.group)
        while not self._back(rank):
            pass
        self._recoveries.end(loss)

    def ready(self) -> None:
        """Returns when every replica has its model."""
        waiting = list(range(len(self.group)))
        while waiting:
            try:
                self._wait_for(waiting)
            except GroupError as error:
                self.lost(error, self.group.actors[error.ranks[0]])
                waiting.remove(error.ranks[0])
            else:
                waiting.clear()

    def _back(self, rank: int) -> bool:
        """Whether a new replica came to have its model."""
        self.group.restart([rank])
        try:
            self._wait_for([rank])
        except GroupError as again:
            self._recoveries.begin(again, self.group)
            return False
        return True

    def _wait_for(self, ranks: Sequence[int]) -> None:
        refs = {rank: self.group.actors[rank].ready.remote() for rank in ranks}
        self.group.gather("start", refs, self.group.limits.start_s)


class NoReference:
    """Stands where no reference model is needed."""

    def logprobs(self, shard: ShardRef) -> None:
        """Nothing to compute."""

    def ready(self) -> None:
        """Nothing to wait for."""
