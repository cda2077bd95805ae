"""Dynamic sampling: a step's groups that teach nothing make room for groups of new tasks.

    groups of the step's tasks --kept--> batch ... full? done
             '--dropped            ^
    as many new tasks as are missing --> groups, kept or dropped        until max_rounds; then dropped groups fill up

The batch always has tasks_per_step groups. What is missing at the limit is filled with the dropped groups whose rewards
differ most, which is what training without dynamic sampling would have done with all of them; it is counted and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from actors.player import Order
from algorithms.reductions import group_index
from algorithms.selection import keep_groups, spread
from orchestrator.batch.lengths import sampled_tokens
from orchestrator.batch.progress import Progress
from orchestrator.roles.cluster import Cluster, Collected
from schemas import batch
from schemas.config import TrainConfig
from schemas.config.method import DynamicSampling
from schemas.task import Task


@dataclass(frozen=True, slots=True)
class Filled:
    """The tables of a step's batch, the tasks of its groups, and what filling it took."""

    shards: Collected
    tasks: tuple[Task, ...]
    numbers: dict[str, float]


class Refill(Protocol):
    """Turns the groups of a step's own tasks into its batch."""

    def complete(self, order: Order, first: Collected, progress: Progress) -> Filled:
        """The batch of the step that `order` was for, `first` being what came of it."""
        ...


def refill_of(config: TrainConfig, cluster: Cluster) -> Refill:
    """Dynamic sampling where it is configured."""
    options = config.algorithm.dynamic_sampling
    return EveryGroup() if options is None else DynamicRefill(options, cluster)


class EveryGroup:
    """Stands where every group is trained on."""

    def complete(self, order: Order, first: Collected, progress: Progress) -> Filled:
        """The batch as it came."""
        return Filled(first, order.tasks, {})


@dataclass(frozen=True, slots=True)
class Group:
    """One played group: whether it is kept, how much its rewards differ, the tokens it cost.

    >>> Group("000003/0/t1", "t1", kept=False, spread=0.0, tokens=96).kept
    False
    """

    group_id: str
    task_id: str
    kept: bool
    spread: float
    tokens: int


class DynamicRefill:
    """Plays further rounds on the cluster until the batch is full."""

    def __init__(self, options: DynamicSampling, cluster: Cluster) -> None:
        self._options = options
        self._cluster = cluster

    def complete(self, order: Order, first: Collected, progress: Progress) -> Filled:
        """Plays as many new tasks as groups are missing, up to the limit of rounds; see the picture above."""
        wanted, version = len(order.tasks), progress.position.step
        rounds, tasks = [first], {task.task_id: task for task in order.tasks}
        groups = judge(first, self._options)
        while (missing := wanted - sum(group.kept for group in groups)) > 0 and len(rounds) < self._options.max_rounds:
            new = progress.more_tasks(missing)
            tasks |= {task.task_id: task for task in new}
            rounds.append(
                self._cluster.play(replace(order, name=f"{order.name}+{len(rounds)}", tasks=new), version=version)
            )
            groups += judge(rounds[-1], self._options)
        chosen = choose(groups, wanted)
        if missing > 0:
            print(
                f"dynamic sampling: step {version} kept {wanted - missing} of {wanted} groups in {len(rounds)} rounds; "
                f"{missing} dropped groups fill the batch",
                flush=True,
            )
        return Filled(
            shards=only(rounds, {group.group_id for group in chosen}),
            tasks=tuple(tasks[name] for name in dict.fromkeys(group.task_id for group in chosen)),
            numbers={
                "dynamic/rounds": float(len(rounds)),
                "dynamic/groups_played": float(len(groups)),
                "dynamic/groups_dropped": float(len(groups) - len(chosen)),
                "dynamic/groups_filled": float(max(0, missing)),
                "dynamic/tokens_wasted": float(sum(g.tokens for g in groups) - sum(g.tokens for g in chosen)),
                "dynamic/reward_played": reward_mean(rounds),
            },
        )


def judge(shards: Collected, options: DynamicSampling) -> list[Group]:
    """Every group of a round, in order of appearance. Raises SchemaError when scores and rollouts do not match."""
    rollout = batch.concat(shards.rollouts, batch.ROLLOUT, "dynamic sampling: rollouts")
    scored = batch.join(
        rollout, batch.concat(shards.scores, batch.SCORES, "dynamic sampling: scores"), "dynamic sampling"
    )
    names = [str(name) for name in scored.column("group_id").to_pylist()]
    index = group_index(names)
    rewards = torch.from_numpy(scored.column("reward").to_numpy().copy())
    values = torch.from_numpy(scored.column(options.key).to_numpy().copy())  # null is NaN
    spreads = spread(rewards, index)
    kept = keep_groups(values.nan_to_num(), index, options.min_spread, options.low, options.high)
    absent = index[values.isnan()]
    kept[absent] = spreads[absent] > 0  # the key does not apply to these groups
    tokens = torch.zeros(len(spreads), dtype=torch.int64)
    tokens.index_add_(0, index, torch.from_numpy(sampled_tokens(scored)))
    task_of = dict(zip(names, scored.column("task_id").to_pylist(), strict=True))
    return [
        Group(name, str(task_of[name]), bool(kept[g]), float(spreads[g]), int(tokens[g]))
        for g, name in enumerate(dict.fromkeys(names))
    ]


def choose(groups: Sequence[Group], wanted: int) -> list[Group]:
    """The kept groups, filled up to `wanted` with the dropped ones of largest spread, all in the order given."""
    dropped = sorted((group for group in groups if not group.kept), key=lambda group: -group.spread)
    fill = {group.group_id for group in dropped[: max(0, wanted - sum(group.kept for group in groups))]}
    return [group for group in groups if group.kept or group.group_id in fill]


def only(rounds: Sequence[Collected], groups: set[str]) -> Collected:
    """The tables of all rounds with the rows of these groups alone. Images stay references to whole shards."""
    names = pa.array(sorted(groups), pa.string())
    rollouts = [table.filter(pc.is_in(table.column("group_id"), names)) for r in rounds for table in r.rollouts]
    rows = pa.array([name for table in rollouts for name in table.column("trajectory_id").to_pylist()], pa.string())

    def mine(tables: Sequence[pa.Table]) -> list[pa.Table]:
        return [table.filter(pc.is_in(table.column("trajectory_id"), rows)) for table in tables]

    reference = [table for r in rounds for table in r.reference or ()]
    values = [table for r in rounds for table in r.values or ()]
    return Collected(
        rollouts=rollouts,
        scores=mine([table for r in rounds for table in r.scores]),
        reference=mine(reference) if rounds[0].reference is not None else None,
        values=mine(values) if rounds[0].values is not None else None,
        images=[image for r in rounds for image in r.images],
    )


def reward_mean(rounds: Sequence[Collected]) -> float:
    """Mean reward of everything that was played, kept or not."""
    return float(np.mean(np.concatenate([table.column("reward").to_numpy() for r in rounds for table in r.scores])))
