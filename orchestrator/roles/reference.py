"""The reference model as the driver sees it: a shard in, its log-probabilities to wait for, from any replica.

A replica that is lost is started again in its place; what it had not finished goes to the others at once.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from actors.group import TICK_S, ActorGroup, GroupError, Limits, ask
from actors.reference import ReferenceActor
from orchestrator.recovery.recoveries import Recoveries
from orchestrator.recovery.returns import Returns, Supply
from orchestrator.roles.dispatch import ShardRef
from schemas.config import TrainConfig


class PendingLogprobs:
    """REFERENCE rows of one shard on their way."""

    def __init__(self, role: ReferenceRole, shard: ShardRef) -> None:
        self._role = role
        self.shard = shard
        self.rank, self._ref = role.send(shard)

    def result(self, *, timeout_s: float) -> pa.Table:
        """The rows. A shard whose replica was lost is sent to another; timeout_s bounds each attempt.

        Raises GroupError, RecoveryLimitError as Recoveries.begin does.
        """
        while True:
            try:
                what, refs = f"logprobs of {self.shard.name}", {self.rank: self._ref}
                rows = self._role.group.gather(what, refs, timeout_s)[self.rank]
            except GroupError as error:
                self._role.lost(error)
            else:
                self._role.done(self)
                return rows

    def send_again(self) -> None:
        """Sends the shard to a replica that is there."""
        self.rank, self._ref = self._role.send(self.shard)


class ReferenceRole:
    """Replicas of the reference model; shards go in turn to those that are there."""

    def __init__(self, group: ActorGroup, recoveries: Recoveries) -> None:
        self.group = group
        self._next = 0
        self._pending: list[PendingLogprobs] = []
        self._returns = Returns(
            group, recoveries, lambda rank: Supply("start", ask(group.actors[rank], ReferenceActor.ready))
        )

    @classmethod
    def spawn(cls, config: TrainConfig, recoveries: Recoveries) -> ReferenceRole:
        """Starts the replicas, as configured; see ActorGroup.spawn."""
        resources = config.resources
        group = ActorGroup.spawn(
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
        return cls(group, recoveries)

    def logprobs(self, shard: ShardRef) -> PendingLogprobs:
        """Starts scoring a shard's tokens."""
        pending = PendingLogprobs(self, shard)
        self._pending.append(pending)
        return pending

    def send(self, shard: ShardRef) -> tuple[int, Any]:
        """Sends a shard to the next replica: its rank, and a reference to the rows. Waits where none is there."""
        present = self._present()
        rank = present[self._next % len(present)]
        self._next += 1
        return rank, ask(self.group.actors[rank], ReferenceActor.logprobs, shard.rollout, shard.images)

    def done(self, pending: PendingLogprobs) -> None:
        """Its rows are there."""
        self._pending.remove(pending)

    def lost(self, error: GroupError) -> None:
        """Restarts the replicas of a failed call, and sends all that they had not finished to others.

        Raises RecoveryLimitError, or the error, where that is no use.
        """
        self._returns.lost(error)
        for pending in [pending for pending in self._pending if pending.rank in error.ranks]:
            pending.send_again()

    def ready(self) -> None:
        """Returns when every replica has its model."""
        refs = {rank: ask(actor, ReferenceActor.ready) for rank, actor in enumerate(self.group.actors)}
        while refs:
            try:
                self.group.gather("start", refs, self.group.limits.start_s)
            except GroupError as error:
                self._returns.lost(error)
                refs = {rank: ref for rank, ref in refs.items() if rank not in error.ranks}
            else:
                refs = {}
        while len(self._returns):
            self._returns.greet(TICK_S)

    def _present(self) -> list[int]:
        """Ranks that have their model, at least one."""
        self._returns.greet()
        while not (present := [rank for rank in range(len(self.group)) if rank not in self._returns]):
            self._returns.greet(TICK_S)
        return present


class NoReference:
    """Stands where no reference model is needed."""

    def logprobs(self, shard: ShardRef) -> None:
        """Nothing to compute."""

    def ready(self) -> None:
        """Nothing to wait for."""
