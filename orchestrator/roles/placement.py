"""What the roles ask of the cluster, as a table, and whether the cluster can hold them.

    TrainConfig --role_plans--> RolePlan per role --.
    ray.nodes() --nodes_of----> Node per machine ---+--> unplaced: what does not fit, role by role

Pure: no Ray here. The driver asks before it starts anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

from schemas.config import Role, SftConfig, TrainConfig
from schemas.config.resources import LABEL, Place

TINY = 1e-6  # Ray counts in ten-thousandths
KIND = "accelerator_type:"  # a resource of Ray's nodes that have accelerators, with their kind behind it
REMEDY = "lower resources.*, or add nodes; with nodes that come on demand, set resources.autoscaled=true"


def count_field(role: str) -> str:
    """The setting that says how many processes a role has."""
    return "reward.replicas" if role == "reward" else f"resources.{role}.count"


@dataclass(frozen=True, slots=True)
class RolePlan:
    """Equal processes: how many, what each reserves, and where they go.

    >>> RolePlan("learner", 4, 4.0, 1.0, 4).each
    '4 CPU, 1 GPU'
    """

    role: str
    count: int
    cpus: float
    gpus: float
    threads: int
    place: Place = field(default_factory=Place)

    @classmethod
    def of(cls, name: str, role: Role, threads: int) -> RolePlan:
        """The plan of a configured role."""
        return cls(name, role.count, role.cpus, role.gpus, threads, role.place)

    @property
    def each(self) -> str:
        """What one process reserves."""
        return _amount(self.cpus, self.gpus)


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster: CPUs and what is free of each GPU, between 0 and 1.

    Ray's CPUs are places to start a process in, not cores; `cores` is how many there are, where that is known, and
    `gpu_kind` is what Ray calls its GPUs.
    """

    name: str
    cpus: float
    gpus: tuple[float, ...] = ()
    label: str | None = None
    cores: int | None = None
    gpu_kind: str | None = None

    def take(self, cpus: float, gpus: float) -> Node | None:
        """The node after one process was put on it; None where it does not fit. A share of a GPU is of one GPU."""
        if self.cpus + TINY < cpus:
            return None
        devices = list(self.gpus)
        if 0 < gpus < 1:
            fitting = [number for number, free in enumerate(devices) if free + TINY >= gpus]
            if not fitting:
                return None
            fullest = min(fitting, key=lambda number: devices[number])
            devices[fullest] -= gpus
        else:
            whole = [number for number, free in enumerate(devices) if free + TINY >= 1]
            if len(whole) < gpus:
                return None
            for number in whole[: int(gpus)]:
                devices[number] = 0.0
        return replace(self, cpus=self.cpus - cpus, gpus=tuple(devices))

    def __str__(self) -> str:
        label = f", {LABEL}={self.label}" if self.label else ""
        cores = f" logical, on {self.cores} cores" if self.cores else ""
        gpus = f", {sum(self.gpus):g} GPU" if self.gpus else ""
        return f"{self.name} ({self.cpus:g} CPU{cores}{gpus}{label})"


@dataclass(frozen=True, slots=True)
class Shortage:
    """A role that finds no room: how many of its processes were placed, what each reserves, and what was free then.

    >>> print(Shortage("learner", 1, 2, "4 CPU", ", each on a node of its own", "a (1 CPU)"))
    learner: room for 1 of 2 processes of 4 CPU, each on a node of its own; free then: a (1 CPU)
    """

    role: str
    placed: int
    count: int
    each: str
    where: str
    free: str

    def __str__(self) -> str:
        return (
            f"{self.role}: room for {self.placed} of {self.count} processes of {self.each}{self.where}; "
            f"free then: {self.free}"
        )


def role_plans(config: TrainConfig | SftConfig) -> tuple[RolePlan, ...]:
    """Every role of a run with what it reserves. Fine-tuning on transcripts has learner ranks alone."""
    threads = config.resources.threads
    started = {name: RolePlan.of(name, role, threads) for name, role in config.resources.roles.items()}
    if isinstance(config, SftConfig):
        return tuple(started.values())
    absent = ({"reference"} if not config.starts_reference else set()) | ({"critic"} if not config.critic else set())
    plans = [plan for name, plan in started.items() if name not in absent]
    scaling = config.reward.autoscaling
    replicas = config.reward.replicas if scaling is None else scaling.min_replicas
    plans.append(RolePlan("reward", replicas, config.reward.cpus_per_replica, 0.0, 1))
    return tuple(plans)


def plan_table(plans: Sequence[RolePlan]) -> str:
    """The plans as lines of text, one per role."""
    rows = [("role", "count", "each", "strategy", "nodes", "threads")]
    rows += [(p.role, str(p.count), p.each, p.place.strategy, p.place.label or "any", str(p.threads)) for p in plans]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def nodes_of(listed: Iterable[Mapping[str, Any]]) -> tuple[Node, ...]:
    """The live nodes of ray.nodes(), by what they have in all."""
    nodes: list[Node] = []
    for node in listed:
        if node.get("Alive"):
            resources, labels = node["Resources"], node.get("Labels") or {}
            whole = int(resources.get("GPU", 0))
            kind = next((name.removeprefix(KIND) for name in resources if name.startswith(KIND)), None)
            nodes.append(
                Node(
                    str(node["NodeManagerAddress"]),
                    float(resources.get("CPU", 0)),
                    (1.0,) * whole,
                    labels.get(LABEL),
                    gpu_kind=kind,
                )
            )
    return tuple(nodes)


def unplaced(plans: Sequence[RolePlan], nodes: Sequence[Node]) -> Shortage | None:
    """The role that finds no room on the cluster, and what is missing. None where all do.

    Ray places one role after the other, each process where it finds room; any order of roles that works will do.
    """
    best: tuple[int, Shortage] | None = None
    for order in permutations(plans):
        for spread in (False, True):
            free, done, shortage = tuple(nodes), 0, None
            for plan in order:
                free, shortage = _place(plan, free, spread)
                if shortage is not None:
                    break
                done += 1
            if shortage is None:
                return None
            if best is None or done > best[0]:
                best = (done, shortage)
    return best[1] if best else None


def _place(plan: RolePlan, nodes: tuple[Node, ...], spread: bool) -> tuple[tuple[Node, ...], Shortage | None]:
    """The nodes after the role's processes were placed, or why one was not."""
    strategy = plan.place.strategy
    allowed = [number for number, node in enumerate(nodes) if plan.place.label in (None, node.label)]
    if strategy == "STRICT_PACK":
        for only in allowed:
            after, placed = _fill(plan, nodes, [only], spread=False, once=False)
            if placed == plan.count:
                return after, None
        return nodes, _shortage(plan, 0, nodes, allowed, " on one node")
    once = strategy == "STRICT_SPREAD"
    after, placed = _fill(plan, nodes, allowed, spread=spread or strategy == "SPREAD", once=once)
    if placed < plan.count:
        return nodes, _shortage(plan, placed, after, allowed, ", each on a node of its own" if once else "")
    return after, None


def _fill(
    plan: RolePlan, nodes: tuple[Node, ...], allowed: Sequence[int], *, spread: bool, once: bool
) -> tuple[tuple[Node, ...], int]:
    held = list(nodes)
    load = dict.fromkeys(allowed, 0)
    for placed in range(plan.count):
        # Packed: the fullest node that still has room. Spread: the node with fewest processes of this role.
        order = sorted(allowed, key=lambda n: (load[n] if spread else 0, sum(held[n].gpus), held[n].cpus))
        for number in order:
            after = None if once and load[number] else held[number].take(plan.cpus, plan.gpus)
            if after is not None:
                held[number] = after
                load[number] += 1
                break
        else:
            return tuple(held), placed
    return tuple(held), plan.count


def _shortage(plan: RolePlan, placed: int, nodes: Sequence[Node], allowed: Sequence[int], how: str) -> Shortage:
    where = f" on nodes labelled {LABEL}={plan.place.label}" if plan.place.label else ""
    free = "; ".join(str(nodes[number]) for number in allowed) or "no such node"
    return Shortage(plan.role, placed, plan.count, plan.each, where + how, free)


def _amount(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else "")
