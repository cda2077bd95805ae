"""The rollout engines as the driver sees them: orders in, finished shards out, whatever happens to an engine.

An engine that is lost is started again in its place and takes the weights that were published last. Until it is back
the others play its part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from actors.group import ActorGroup, GroupError, Limits, ask
from actors.player import Order
from actors.rollout import RolloutActor
from orchestrator.recovery.recoveries import Recoveries
from orchestrator.recovery.returns import Returns, Supply
from orchestrator.recovery.stop import interruptible
from orchestrator.roles.dispatch import Dispatch, ShardRef
from orchestrator.telemetry.stage_seconds import timed
from schemas.config import TrainConfig

Weights = Callable[[], Sequence[Any]]  # references to the learner ranks' local shards of one version


class RolloutRole:
    """All rollout engines."""

    def __init__(
        self, group: ActorGroup, recoveries: Recoveries, *, shards: int, seed: int | None, nccl: bool = False
    ) -> None:
        """`shards` of each engine's part; `seed` for runs that must repeat exactly; `nccl` if weights come that way."""
        self.group = group
        self._shards = shards
        self._seed = seed
        self._nccl = nccl
        self._weights: tuple[int, Weights] | None = None  # the version published last, and who has it
        self._returns = Returns(group, recoveries, self._supply)
        self._stale: set[int] = set()  # back, but without weights: NCCL brings them to all engines at once

    @classmethod
    def spawn(cls, config: TrainConfig, recoveries: Recoveries) -> RolloutRole:
        """Starts the engines, as configured; see ActorGroup.spawn."""
        resources, run = config.resources, config.run
        group = ActorGroup.spawn(
            "rollout",
            RolloutActor,
            resources.rollout,
            resources.threads,
            arguments=lambda rank: (
                config.model,
                config.data,
                config.rollout,
                run.seed + rank,
                resources.weight_transfer,
                run.deterministic,
            ),
            limits=Limits.of(resources),
        )
        return cls(
            group,
            recoveries,
            shards=config.rollout.shards_per_engine,
            seed=run.seed if run.deterministic else None,
            nccl=resources.weight_transfer == "nccl",
        )

    @timed("rollout")
    @interruptible
    def generate(self, order: Order, version: int) -> Iterator[ShardRef]:
        """Deals the order's tasks to the engines and yields shards as they finish, in any order; each group once.

        Raises RecoveryLimitError at too many losses, GroupError when the same work fails in the same way twice.
        """
        order = order if self._seed is None else replace(order, seed=self._seed)
        yield from Dispatch(self, order, version, self._shards).shards()

    def load_weights(self, version: int, shards: Weights) -> None:
        """Every engine joins the ranks' local shards and takes them as `version`.

        An engine that is away takes them when it is back; the others do not wait for it. `shards` is asked again for an
        engine that is lost later: references may have been lost with a node.
        """
        self._returns.greet()
        self._weights = (version, shards)
        here, what = tuple(shards()), f"weights of version {version}"
        refs: dict[int, Any] = {}
        for rank, actor in enumerate(self.group.actors):
            ref = ask(actor, RolloutActor.load_weights, version, *here)
            if rank in self._returns:
                self._returns.await_instead(rank, Supply(what, ref))
            else:
                refs[rank] = ref
        while refs:
            try:
                self.group.gather(what, refs)
            except GroupError as error:
                self.lost(error)
                refs = {rank: ref for rank, ref in refs.items() if rank not in error.ranks}
            else:
                return

    def took_weights(self, version: int) -> None:
        """Every engine was sent `version` over NCCL."""
        self.group.call(RolloutActor.took_weights, version)
        for rank in [rank for rank in range(len(self.group)) if rank in self._returns]:
            self.welcome(rank)
        self._stale.clear()

    def present(self) -> list[int]:
        """Ranks that can be given work. Raises RuntimeError when there is none, nor will be."""
        present = [rank for rank in range(len(self.group)) if rank not in self._returns and rank not in self._stale]
        if not present and not len(self._returns):
            raise RuntimeError(
                "rollout: every engine was lost, and weight_transfer='nccl' brings weights at the end of a step only; "
                "the same command continues from the last checkpoint. More engines, or 'object_store', survive this"
            )
        return present

    def away(self) -> dict[Any, int]:
        """Ranks that are on their way back, by the reference that is there when they are.

        Raises GroupError for one that does not come back.
        """
        return self._returns.away()

    def welcome(self, rank: int) -> None:
        """Takes an engine back for work: what `away` gave for this rank is ready. Raises GroupError if it failed."""
        self._returns.welcome(rank)
        if self._nccl:
            self._stale.add(rank)

    def lost(self, error: GroupError) -> None:
        """Restarts the ranks of the error. Raises RecoveryLimitError, or the error, where that is no use."""
        self._returns.lost(error)

    def _supply(self, rank: int) -> Supply:
        """Sends an engine the weights published last; the ones it started from need not be sent."""
        actor = self.group.actors[rank]
        if self._weights is None:
            return Supply("start", ask(actor, RolloutActor.ready))
        version, shards = self._weights
        return Supply(f"weights of version {version}", ask(actor, RolloutActor.load_weights, version, *shards()))
