"""Actors of a group that were lost and are on their way back, while the others go on.

lost(error) --> restarted, and asked for what they need first     away() --> their references
welcome(rank) --> it is there: counted as a recovery              greet() --> every one that is there, or failed
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from actors.group import ActorGroup, GroupError
from orchestrator.recovery.recoveries import LostPart, Recoveries


@dataclass(frozen=True, slots=True)
class Supply:
    """What an actor that was started again does first: a name for messages, and the reference that is there then."""

    what: str
    ready: Any


@dataclass(frozen=True, slots=True)
class _Return:
    loss: LostPart
    supply: Supply
    since: float = field(default_factory=time.monotonic)


class Returns:
    """Of one group. `supply(rank)` asks a new actor for what it does first."""

    def __init__(self, group: ActorGroup, recoveries: Recoveries, supply: Callable[[int], Supply]) -> None:
        self._group = group
        self._recoveries = recoveries
        self._supply = supply
        self._away: dict[int, _Return] = {}

    def __len__(self) -> int:
        return len(self._away)

    def __contains__(self, rank: int) -> bool:
        return rank in self._away

    def lost(self, error: GroupError) -> None:
        """Restarts the ranks of the error. Raises RecoveryLimitError, or the error, where that is no use."""
        loss = self._recoveries.begin(error, self._group)
        self._group.restart(error.ranks)
        for rank in error.ranks:
            self._away[rank] = _Return(replace(loss, ranks=(rank,)), self._supply(rank))

    def await_instead(self, rank: int, supply: Supply) -> None:
        """A rank on its way back was asked for something later: it is back when it has done that."""
        self._away[rank] = replace(self._away[rank], supply=supply)

    def away(self) -> dict[Any, int]:
        """Ranks by the reference that is there when they are back. Raises GroupError for one that takes too long."""
        limit = self._group.limits.start_s
        for rank, one in self._away.items():
            if time.monotonic() - one.since > limit:
                raise GroupError(self._group.role, [rank], one.supply.what, "late", f"not back within {limit:.0f} s")
        return {one.supply.ready: rank for rank, one in self._away.items()}

    def welcome(self, rank: int) -> None:
        """What `away` gave for this rank is there. Raises GroupError if it failed."""
        one = self._away[rank]
        self._group.check(one.supply.what, rank, one.supply.ready)
        del self._away[rank]
        self._recoveries.end(one.loss)

    def greet(self, timeout_s: float = 0.0) -> None:
        """Welcomes those that are back, waiting so long for a first; those that failed are started again."""
        try:
            away = self.away()
            ready = ray.wait(list(away), num_returns=1, timeout=timeout_s)[0] if away else []
            if ready:
                ready = ray.wait(list(away), num_returns=len(away), timeout=0)[0]
            for ref in ready:
                self.welcome(away[ref])
        except GroupError as error:
            self.lost(error)
