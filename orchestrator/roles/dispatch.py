"""One order on several engines, any of which may be lost.

order --deal--> parts --> idle engines --stream--> shard by shard --(a copy of its images)--> each group once
                  ^           |                                            |
                  '-- what an engine that is lost had not finished <-------'

Images stay on the node of the engine that drew them, and would be lost with it: those of another node than the driver's
are copied to the driver's node, not to the driver, before their shard counts as arrived.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.experimental import get_local_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.group import TICK_S, ActorGroup, GroupError, iterate
from actors.player import Order, group_name
from actors.rollout import RolloutActor
from actors.table_files import same


@dataclass(frozen=True, slots=True)
class ShardRef:
    """References to a finished shard: its rollout table and its images. `name` is its order's, for people."""

    name: str
    rollout: Any
    images: Any


class EngineRoster(Protocol):
    """Rollout engines of which some may be away: restarting, or not yet at the current version."""

    group: ActorGroup

    def present(self) -> list[int]:
        """Ranks that can be given work."""
        ...

    def away(self) -> dict[Any, int]:
        """Ranks that are on their way back, by the reference that is there when they are."""
        ...

    def welcome(self, rank: int) -> None:
        """Takes an engine back for work: what `away` gave for this rank is ready. Raises GroupError if it failed."""
        ...

    def lost(self, error: GroupError) -> None:
        """Restarts the ranks of the error. Raises where that is no use."""
        ...


@dataclass(slots=True, eq=False)
class _Part:
    """A share of an order, the engine it is meant for, and the numbers of its tasks whose groups have arrived."""

    order: Order
    rank: int
    done: frozenset[int] = frozenset()

    @property
    def what(self) -> str:
        return f"generate {self.order.name}"


@dataclass(slots=True)
class _Stream:
    """A part being played: by which engine, the first half of a shard, and when something last came."""

    part: _Part
    rank: int
    images: Any = None
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A shard whose images are on their way to the driver's node, and the numbers of its tasks."""

    part: _Part
    rank: int
    numbers: frozenset[int]
    shard: ShardRef
    since: float = field(default_factory=time.monotonic)


class Dispatch:
    """Plays one order with weights of one version."""

    def __init__(self, engines: EngineRoster, order: Order, version: int, shards: int) -> None:
        """`shards` is how many each engine makes of its part."""
        self._engines = engines
        self._group = engines.group
        self._version = version
        self._waiting = [_Part(part, rank) for rank, part in deal(order, len(engines.group), shards)]
        self._streams: dict[Any, _Stream] = {}
        self._copies: dict[Any, _Copy] = {}

    def shards(self) -> Iterator[ShardRef]:
        """Yields shards as they finish, in any order; every group is in exactly one."""
        while self._waiting or self._streams or self._copies:
            try:
                shard = self._next()
            except GroupError as error:
                for ref in [ref for ref, stream in self._streams.items() if stream.rank in error.ranks]:
                    self._put_back(self._streams.pop(ref).part)
                self._engines.lost(error)
            else:
                if shard is not None:
                    yield shard

    def _next(self) -> ShardRef | None:
        """Waits, for a tick at most, for whatever happens next. Raises GroupError when an engine fails."""
        self._hand_out()
        away = self._engines.away()
        awaited = [*away, *self._copies, *self._streams]
        ready, _ = ray.wait(awaited, num_returns=1, timeout=TICK_S, fetch_local=False)
        if not ready:
            self._look()
        elif ready[0] in away:
            self._engines.welcome(away[ready[0]])
        elif ready[0] in self._copies:
            return self._copied(ready[0])
        else:
            return self._take(ready[0])
        return None

    def _hand_out(self) -> None:
        """Gives each idle engine the part meant for it, else one whose engine is away."""
        busy = {stream.rank for stream in self._streams.values()}
        present = self._engines.present()
        for rank in present:
            fit = [part for part in self._waiting if part.rank == rank or part.rank not in present]
            if rank in busy or not fit:
                continue
            part = min(fit, key=lambda part: part.rank != rank)
            self._waiting.remove(part)
            order = replace(part.order, done=self._covered(part))
            items = iterate(self._group.actors[rank], RolloutActor.generate, order, self._version)
            self._streams[items] = _Stream(part, rank)

    def _take(self, ref: Any) -> ShardRef | None:
        """The next item of a stream: a shard when both halves are there. Raises GroupError when the stream failed."""
        stream = self._streams[ref]
        stream.since = time.monotonic()
        try:
            item = next(ref)
        except StopIteration:
            if stream.images is not None:  # a failed stream's last item is its error
                self._group.check(stream.part.what, stream.rank, stream.images)
            del self._streams[ref]
            self._put_back(stream.part)
            return None
        if stream.images is None:
            stream.images = item
            return None
        images, stream.images = stream.images, None
        rows = self._group.check(stream.part.what, stream.rank, item)
        arrived, order = set(rows.column("group_id").to_pylist()), stream.part.order
        numbers = frozenset(n for n, task in enumerate(order.tasks) if group_name(order.name, n, task) in arrived)
        if _is_elsewhere(images):
            done, images = _copy_here(images)
            self._copies[done] = _Copy(stream.part, stream.rank, numbers, ShardRef(order.name, item, images))
            return None
        stream.part.done |= numbers
        return ShardRef(order.name, item, images)

    def _copied(self, ref: Any) -> ShardRef | None:
        """A shard whose images were copied; None when they were lost first, and must be played again."""
        copy = self._copies.pop(ref)
        try:
            ray.get(ref)
        except RayError:
            self._put_back(copy.part)
            return None
        copy.part.done |= copy.numbers
        return copy.shard

    def _put_back(self, part: _Part) -> None:
        """Lets a part be played again whose groups have not all arrived, nor are on their way."""
        under_way = part in self._waiting or any(stream.part is part for stream in self._streams.values())
        if not under_way and len(self._covered(part)) < len(part.order.tasks):
            self._waiting.append(part)

    def _covered(self, part: _Part) -> frozenset[int]:
        """Tasks whose groups have arrived or are on their way."""
        return part.done.union(*(copy.numbers for copy in self._copies.values() if copy.part is part))

    def _look(self) -> None:
        """Raises GroupError for an engine that is silent, or that gives nothing for too long."""
        now, limit = time.monotonic(), self._group.limits.call_s
        for stream in self._streams.values():
            self._group.look(stream.part.what, [stream.rank])
            if now - stream.since > limit:
                raise GroupError("rollout", [stream.rank], stream.part.what, "late", f"no shard for {limit:.0f} s")
        for ref, copy in list(self._copies.items()):
            if now - copy.since > limit:
                del self._copies[ref]
                self._put_back(copy.part)
                detail = f"its images were not copied within {limit:.0f} s"
                raise GroupError("rollout", [copy.rank], copy.part.what, "late", detail)


def _is_elsewhere(ref: Any) -> bool:
    """Whether a finished object is on other nodes only. One that is small is with its owner, the driver."""
    nodes = get_local_object_locations([ref])[ref]["node_ids"]
    return bool(nodes) and ray.get_runtime_context().get_node_id() not in nodes


def _copy_here(ref: Any) -> tuple[Any, Any]:
    """A reference that is there when the object's copy is on the driver's node, and one to the copy."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    done, copy = _SAME.options(scheduling_strategy=here).remote(ref)
    return done, copy


_SAME: Any = ray.remote(num_cpus=0, num_returns=2)(same)


def deal(order: Order, engines: int, shards: int) -> list[tuple[int, Order]]:
    """An order for each engine, task counts differing by at most one; none for an engine that would have no task."""
    bounds = [round(i * len(order.tasks) / engines) for i in range(engines + 1)]
    parts = [order.tasks[bounds[rank] : bounds[rank + 1]] for rank in range(engines)]
    return [
        (rank, replace(order, name=f"{order.name}.{rank}", tasks=tasks, shards=shards))
        for rank, tasks in enumerate(parts)
        if tasks
    ]
