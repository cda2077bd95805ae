"""Placement and calls of a group of equal actors: the only place that creates actors of a role.

ActorGroup.spawn(role, cls, count) -> one placement group, `count` actors
group.call("method", ...)          -> every actor, bounded in time, fails on the first error
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from schemas.placement import Place


class GroupError(RuntimeError):
    """A call on a group failed or ran out of time; the message says which role, rank, method and why."""


@dataclass(frozen=True, slots=True)
class Share:
    """What Ray reserves for one actor, and the threads it may use.

    >>> Share(cpus=1.0, gpus=0.0, threads=1).environment()["OMP_NUM_THREADS"]
    '1'
    """

    cpus: float
    gpus: float
    threads: int

    def environment(self) -> dict[str, str]:
        """Variables of the actor's process. Spinning threads on shared cores cost a factor of 2 to 4: they wait."""
        variables = {
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        if self.gpus == 0:
            # No compiler is needed where nothing is compiled; GPUs keep their compiled kernels.
            variables |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        return variables


def node_by_node(node_of: Mapping[int, str]) -> list[int]:
    """The bundle of every rank, so that consecutive ranks share a node; nodes in the order of their first bundles.

    >>> node_by_node({0: "a", 1: "b", 2: "a"})
    [0, 2, 1]
    """
    first: dict[str, int] = {}
    for bundle in sorted(node_of):
        first.setdefault(node_of[bundle], bundle)
    return sorted(node_of, key=lambda bundle: (first[node_of[bundle]], bundle))


class ActorGroup:
    """`count` actors of one class in one placement group."""

    def __init__(self, role: str, actors: Sequence[Any], placement: PlacementGroup, timeout_s: float) -> None:
        self.role = role
        self.actors = tuple(actors)
        self._placement = placement
        self._timeout_s = timeout_s

    @classmethod
    def spawn(
        cls,
        role: str,
        actor_class: type,
        count: int,
        share: Share,
        *,
        place: Place,
        arguments: Callable[[int], tuple[Any, ...]],
        start_timeout_s: float,
        call_timeout_s: float,
    ) -> ActorGroup:
        """Reserves room and starts the actors; `arguments(rank)` are their constructor's.

        Returns without waiting for constructors: call a method to know that they ran. Raises GroupError when the
        cluster cannot make room in time.
        """
        bundle = {"CPU": share.cpus} | ({"GPU": share.gpus} if share.gpus else {})
        placement = placement_group(
            [bundle] * count,
            strategy=place.strategy,
            name=f"pointvg-{role}",
            bundle_label_selector=[place.selector] * count if place.selector else None,
        )
        if not placement.wait(start_timeout_s):
            remove_placement_group(placement)
            raise GroupError(
                f"{role}: no room for {count} x {bundle} within {start_timeout_s:.0f} s; the cluster has "
                f"{ray.cluster_resources()}, free {ray.available_resources()}. Lower resources.* or add nodes"
            )
        bundles = node_by_node(placement_group_table(placement)["bundles_to_node_id"])
        remote = ray.remote(actor_class)
        actors = [
            remote.options(
                num_cpus=share.cpus,
                num_gpus=share.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement, placement_group_bundle_index=bundles[rank]
                ),
                runtime_env={"env_vars": share.environment()},
            ).remote(*arguments(rank))
            for rank in range(count)
        ]
        return cls(role, actors, placement, call_timeout_s)

    def __len__(self) -> int:
        return len(self.actors)

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> list[Any]:
        """Calls `method` on every actor with the same arguments and waits for all answers, in order of rank."""
        return self.gather(method, [getattr(a, method).remote(*arguments) for a in self.actors], timeout_s)

    def meet(self, method: str, *arguments: Any, timeout_s: float) -> list[Any]:
        """As `call`, with a host and a free port of rank 0 before the arguments."""
        host, port = ray.get(self.actors[0].address.remote(), timeout=timeout_s)
        return self.call(method, host, port, *arguments, timeout_s=timeout_s)

    def gather(self, method: str, refs: Sequence[Any], timeout_s: float | None = None) -> list[Any]:
        """Waits for one ref per actor. The first error ends the wait: the others may be stuck in a collective.

        Raises GroupError naming role, rank and method.
        """
        limit = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit
        pending = list(refs)
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                late = [list(refs).index(ref) for ref in pending]
                raise GroupError(f"{self.role}: {method} gave no answer within {limit:.0f} s from rank(s) {late}")
            try:
                ray.get(done[0])
            except RayError as error:
                raise GroupError(f"{self.role} rank {list(refs).index(done[0])}: {method} failed: {error}") from error
        return ray.get(list(refs))

    def stop(self) -> None:
        """Kills the actors and gives the room back."""
        for actor in self.actors:
            ray.kill(actor, no_restart=True)
        remove_placement_group(self._placement)
