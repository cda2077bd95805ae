"""Placement and calls of a group of equal actors: the only place that creates actors of a role.

    ActorGroup.spawn(role, cls, processes) -> one placement group, as many actors
    group.call(Actor.method, ...)          -> every actor, bounded in time, fails on the first error
    group.restart(ranks)                   -> new actors in the places of those that died

What is waited for is bounded three times: an actor that dies or raises ends the wait at once, one that gives no sign of
life ends it after `silence_s`, and a live one that does not finish after the call's own limit.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors import health
from actors.environment import environment, forkable
from actors.forkserver import SERVER, python_executable, server_name
from schemas.config import Role, SftResources

TICK_S = 1.0  # signs of life are looked at this often while waiting
Fault = Literal["died", "silent", "late", "raised"]
P = ParamSpec("P")
R = TypeVar("R")


def stored(value: R) -> R:
    """A reference to a value that is put in the object store, of the type that an actor gets in its place."""
    return cast("R", ray.put(value))


def ask(actor: Any, method: Callable[Concatenate[Any, P], object], *arguments: P.args, **named: P.kwargs) -> Any:
    """Calls a method of an actor, named by its class so that the arguments are checked; a reference to its answer.

    A reference may stand for any argument: the actor gets the value.
    """
    return getattr(actor, method.__name__).remote(*arguments, **named)


class GroupError(RuntimeError):
    """A call on a group failed; the message says which role, ranks, call, how and after how long.

    `ranks` failed in the way `fault` says: their processes died, gave no sign of life, did not finish in time, or
    raised `cause`.
    """

    def __init__(self, role: str, ranks: Sequence[int], what: str, fault: Fault, detail: str) -> None:
        who = f"{role} rank(s) {', '.join(map(str, ranks))}" if ranks else role
        super().__init__(f"{who}: {what}: {fault}: {detail}")
        self.role, self.ranks, self.what, self.detail = role, tuple(ranks), what, detail
        self.fault: Fault = fault
        self.cause: BaseException | None = None


def iterate(
    actor: Any, method: Callable[Concatenate[Any, P], Iterator[object]], *arguments: P.args, **named: P.kwargs
) -> Any:
    """As `ask`, of a method that yields: an iterator of references, each there as soon as its item is."""
    return getattr(actor, method.__name__).options(num_returns="streaming").remote(*arguments, **named)


def _runtime_environment(gpus: float, threads: int) -> dict[str, Any]:
    """Of an actor's process: variables, and a start by fork where that works: other machines may have the interpreter
    elsewhere.
    """
    variables = environment(gpus, threads)
    if forkable(gpus, threads) and all(
        node["NodeManagerHostname"] == socket.gethostname() for node in ray.nodes() if node["Alive"]
    ):
        return {"env_vars": variables | {SERVER: server_name(variables)}, "py_executable": python_executable()}
    return {"env_vars": variables}


def node_by_node(node_of: Mapping[int, str]) -> list[int]:
    """The bundle of every rank, so that consecutive ranks share a node; nodes in the order of their first bundles.

    >>> node_by_node({0: "a", 1: "b", 2: "a"})
    [0, 2, 1]
    """
    first: dict[str, int] = {}
    for bundle in sorted(node_of):
        first.setdefault(node_of[bundle], bundle)
    return sorted(node_of, key=lambda bundle: (first[node_of[bundle]], bundle))


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: to find room and start, for a call to finish, and without a sign of life while one is waited for.

    >>> Limits(start_s=600, call_s=1800, silence_s=60).silence_s
    60
    """

    start_s: float
    call_s: float
    silence_s: float

    @classmethod
    def of(cls, resources: SftResources) -> Limits:
        """As configured."""
        return cls(resources.start_timeout_s, resources.call_timeout_s, resources.silence_timeout_s)


class Rank(Protocol):
    """An actor of a group that computes together."""

    def address(self) -> tuple[str, int]:
        """A host and a free port of this actor's."""
        ...

    def start(self, host: str, port: int, checkpoint: str | None) -> object:
        """Joins the others, who meet there, and builds its part of the model, from a checkpoint if given."""
        ...


class ActorGroup:
    """Equal actors of one class in one placement group."""

    def __init__(self, role: str, start: Callable[[int], Any], placement: PlacementGroup, limits: Limits) -> None:
        """`start(rank)` makes the actor of a rank in its place."""
        self.role = role
        self.limits = limits
        self._make = start
        self._placement = placement
        self._pulse = health.Pulse(limits.silence_s, lambda actor: actor.whoami.remote())
        self._actors = [self._start(rank) for rank in range(placement.bundle_count)]

    @classmethod
    def spawn(
        cls,
        role: str,
        actor_class: type,
        processes: Role,
        threads: int,
        *,
        arguments: Callable[[int], tuple[Any, ...]],
        limits: Limits,
    ) -> ActorGroup:
        """Reserves room for a role's processes and starts them; `arguments(rank)` are their constructor's.

        Returns without waiting for constructors: call a method to know that they ran. Raises GroupError when the
        cluster cannot make room in time.
        """
        count, place = processes.count, processes.place
        bundle = {"CPU": processes.cpus} | ({"GPU": processes.gpus} if processes.gpus else {})
        labels: dict[str, Any] = {"bundle_label_selector": [place.selector] * count} if place.selector else {}
        placement = placement_group(
            [bundle] * count,
            strategy=place.strategy,
            name=f"pointvg-{role}",
            **labels,
        )
        if not placement.wait(limits.start_s):
            remove_placement_group(placement)
            free = f"the cluster has {ray.cluster_resources()}, free {ray.available_resources()}"
            detail = f"no room for {count} x {bundle} within {limits.start_s:.0f} s; {free}"
            raise GroupError(role, range(count), "start", "late", f"{detail}. Lower resources.* or add nodes")
        bundles = node_by_node(placement_group_table(placement)["bundles_to_node_id"])
        remote = cast(Any, ray.remote)(concurrency_groups={health.GROUP: 1})(health.watched(actor_class))

        def start(rank: int) -> Any:
            return remote.options(
                num_cpus=processes.cpus,
                num_gpus=processes.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement, placement_group_bundle_index=bundles[rank]
                ),
                runtime_env=_runtime_environment(processes.gpus, threads),
            ).remote(*arguments(rank))

        return cls(role, start, placement, limits)

    @property
    def actors(self) -> tuple[Any, ...]:
        """The actors, in order of rank."""
        return tuple(self._actors)

    def __len__(self) -> int:
        return len(self._actors)

    def call(self, method: Callable[Concatenate[Any, P], R], *arguments: P.args, **named: P.kwargs) -> list[R]:
        """Calls a method of every actor with the same arguments and waits for all answers, in order of rank."""
        refs = {rank: ask(actor, method, *arguments, **named) for rank, actor in enumerate(self._actors)}
        return list(self.gather(method.__name__, refs).values())

    def meet(
        self, method: Callable[Concatenate[Any, str, int, P], object], *arguments: P.args, **named: P.kwargs
    ) -> None:
        """As `call`, with a host and a free port of rank 0 before the arguments; bounded as a start is."""
        limit = self.limits.start_s
        host, port = self.gather("address", {0: ask(self._actors[0], Rank.address)}, limit)[0]
        refs = {rank: ask(actor, method, host, port, *arguments, **named) for rank, actor in enumerate(self._actors)}
        self.gather(method.__name__, refs, limit)

    def gather(self, what: str, refs: Mapping[int, Any], timeout_s: float | None = None) -> dict[int, Any]:
        """Waits for one reference of each of these ranks. The first failure ends the wait: the others may be stuck in
        a collective with the one that failed.

        Raises GroupError.
        """
        limit = self.limits.call_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit
        rank_of = {ref: rank for rank, ref in refs.items()}
        pending, results = list(rank_of), dict[int, Any]()
        while pending:
            left = deadline - time.monotonic()
            done, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, min(TICK_S, left)))
            for ref in done:
                try:
                    results[rank_of[ref]] = self.check(what, rank_of[ref], ref)
                except GroupError as error:
                    raise self._root_of(error, {rank_of[ref]: ref for ref in pending}) from error.cause
            waiting = [rank_of[ref] for ref in pending]
            if not done:
                self.look(what, waiting)
                if left <= 0:
                    raise GroupError(self.role, waiting, what, "late", f"no answer within {limit:.0f} s")
        return {rank: results[rank] for rank in refs}

    def _root_of(self, error: GroupError, others: Mapping[int, Any]) -> GroupError:
        """The death of another rank, when that is what made this one raise: its peers lose their connections to it."""
        if error.fault == "raised" and others:
            for ref in ray.wait(list(others.values()), num_returns=1, timeout=TICK_S)[0]:
                rank = next(rank for rank, other in others.items() if other == ref)
                try:
                    self.check(error.what, rank, ref)
                except GroupError as other:
                    return other if other.fault == "died" else error
        return error

    def check(self, what: str, rank: int, ref: Any) -> Any:
        """What a finished reference holds; raises GroupError when it holds a failure."""
        try:
            return ray.get(ref, timeout=self.limits.call_s)
        except RayError as error:
            fault: Fault = "died"
            detail = str(error).split("\n", 1)[0]
            if isinstance(error, RayTaskError):
                fault, detail = "raised", f"{type(error.cause).__name__}: {error.cause}"
            elif isinstance(error, GetTimeoutError):
                fault, detail = "late", f"its answer was not fetched within {self.limits.call_s:.0f} s"
            failure = GroupError(self.role, [rank], what, fault, detail)
            failure.cause = error
            raise failure from error

    def look(self, what: str, ranks: Iterable[int]) -> None:
        """Raises GroupError when one of these ranks, which are waited for, has been silent for too long."""
        found = self._pulse.silent([self._actors[rank] for rank in ranks])
        if found:
            silent = [self._actors.index(actor) for actor in found]
            detail = f"no sign of life for {self.limits.silence_s:.0f} s (resources.silence_timeout_s)"
            raise GroupError(self.role, silent, what, "silent", detail)

    def restart(self, ranks: Iterable[int]) -> None:
        """Kills these actors and starts new ones in their places, without waiting for constructors."""
        ranks = list(ranks)
        for rank in ranks:
            self._end(rank)
        for rank in ranks:
            self._actors[rank] = self._start(rank)

    def stacks(self, silent: Collection[int]) -> str:
        """What the actors are doing, for people. Those that are `silent` are not given long to answer."""
        found: list[str] = []
        for rank, actor in enumerate(self._actors):
            timeout_s = 1.0 if rank in silent else 5.0
            of_rank = health.stacks_of(actor, self._pulse.answers.get(actor), timeout_s)
            found.append(f"{self.role} rank {rank}\n{of_rank}\n")
        return "\n".join(found)

    def stop(self) -> None:
        """Kills the actors and gives the room back."""
        for rank in range(len(self._actors)):
            self._end(rank)
        remove_placement_group(self._placement)

    def _start(self, rank: int) -> Any:
        actor = self._make(rank)
        self._pulse.ask(actor)
        return actor

    def _end(self, rank: int) -> None:
        actor = self._actors[rank]
        health.end(actor, self._pulse.answers.get(actor))
        self._pulse.forget(actor)
