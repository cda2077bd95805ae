"""Dynamic sampling: who is kept, what fills the batch at the limit, and that rows, tasks and cursor stay exact."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pytest

from actors.player import Order
from algorithms.adaptive import AdaptiveState
from orchestrator.batch.assemble import StageTables, StepMethod, assemble
from orchestrator.batch.dynamic_sampling import DynamicRefill, EveryGroup, Group, choose, judge, refill_of
from orchestrator.batch.progress import Position, Progress
from orchestrator.roles.cluster import Cluster, Collected
from schemas import batch
from schemas.config import TrainConfig
from schemas.config.method import DynamicSampling
from schemas.task import NEGATIVE, Task
from tests.small_run import rollout_table

TASKS = [Task(task_id=f"t{i}", prompt="?", ground_truth=NEGATIVE) for i in range(9)]
TOKENS = 3  # sampled in each trajectory


def config(**dynamic: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": {"path": "m"},
            "data": {"train_files": "a", "shuffle": False},
            "rollout": {"tasks_per_step": 3, "samples_per_task": 2},
            "algorithm": {"kl": {"coefficient": 0.05}, "dynamic_sampling": dynamic},
            "trainer": {"max_steps": 5},
        }
    )


def shard(order: Order, rewards: dict[str, tuple[float, float]], iou: dict[str, float | None]) -> Collected:
    """One order as rollout engines, reward and reference hand it over: a shard for each task, scores out of order."""
    rollouts: list[pa.Table] = []
    scores: list[pa.Table] = []
    reference: list[pa.Table] = []
    for number, task in enumerate(order.tasks):
        group = f"{order.name}.0/{number}/{task.task_id}"
        rows: list[dict[str, Any]] = [
            {
                "trajectory_id": f"{group}/{sample}",
                "group_id": group,
                "task_id": task.task_id,
                "sample": sample,
                "behaviour_logprobs": [0.0, -1.0, -1.0, -1.0],
                "turn_lengths": [1, TOKENS - 1],
            }
            for sample in range(2)
        ]
        rollouts.append(rollout_table(rows))
        ids = [row["trajectory_id"] for row in rows]
        scored = [
            {"trajectory_id": name, "reward": reward, "obj_iou": iou.get(task.task_id)}
            for name, reward in zip(ids, rewards[task.task_id], strict=True)
        ]
        scores.insert(0, pa.Table.from_pylist(scored, schema=batch.SCORES))
        said = [{"trajectory_id": name, "reference_logprobs": [0.0, -1.5, -1.5, -1.5]} for name in ids]
        reference.append(pa.Table.from_pylist(said, schema=batch.REFERENCE))
    return Collected(rollouts, scores, reference, images=[f"images of {order.name}"])


@dataclass
class Stage:
    """A cluster whose tasks earn fixed rewards."""

    rewards: dict[str, tuple[float, float]]
    iou: dict[str, float | None] = field(default_factory=dict)
    orders: list[tuple[str, list[str], int]] = field(default_factory=list)

    def play(self, order: Order, version: int) -> Collected:
        self.orders.append((order.name, [task.task_id for task in order.tasks], version))
        return shard(order, self.rewards, self.iou)


def filled(stage: Stage, settings: TrainConfig, progress: Progress) -> Any:
    order = Order("000000", progress.next_tasks(), 2, settings.rollout.sampling)
    refill = refill_of(settings, cast("Cluster", stage))
    return refill.complete(order, stage.play(order, version=0), progress)


FLAT, SPREAD = (4.0, 4.0), (4.0, 6.0)


def test_new_tasks_replace_groups_without_spread_until_the_batch_is_full() -> None:
    spread = {"t1", "t4", "t5", "t6"}
    stage = Stage({t.task_id: SPREAD if t.task_id in spread else FLAT for t in TASKS})
    settings = config(max_rounds=5)
    progress = Progress(settings, TASKS, Position())
    out = filled(stage, settings, progress)
    assert [(name, tasks) for name, tasks, _ in stage.orders] == [
        ("000000", ["t0", "t1", "t2"]),
        ("000000+1", ["t3", "t4"]),
        ("000000+2", ["t5"]),
    ]
    assert [task.task_id for task in out.tasks] == ["t1", "t4", "t5"]
    assert out.numbers == {
        "dynamic/rounds": 3,
        "dynamic/groups_played": 6,
        "dynamic/groups_dropped": 3,
        "dynamic/groups_filled": 0,
        "dynamic/tokens_wasted": 3 * 2 * TOKENS,
        "dynamic/reward_played": pytest.approx((3 * 4 + 3 * 5) / 6),
    }
    progress.advance(AdaptiveState(), None)
    assert [task.task_id for task in progress.next_tasks()] == ["t6", "t7", "t8"]


def test_at_the_limit_the_dropped_groups_that_differ_most_fill_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    rewards = {t.task_id: FLAT for t in TASKS} | {"t0": (4.0, 4.5), "t2": SPREAD, "t3": (4.0, 4.9)}
    settings = config(min_spread=1.0, max_rounds=2)
    out = filled(Stage(rewards), settings, Progress(settings, TASKS, Position()))
    assert [task.task_id for task in out.tasks] == ["t0", "t2", "t3"]
    assert (out.numbers["dynamic/rounds"], out.numbers["dynamic/groups_filled"]) == (2, 2)
    assert "step 0 kept 1 of 3 groups in 2 rounds; 2 dropped groups fill the batch" in capsys.readouterr().out


def test_the_batch_that_comes_out_is_one_that_assembles() -> None:
    """Scores and reference belong to the same rows, the step has its size, and every advantage differs from 0."""
    stage = Stage({t.task_id: SPREAD if int(t.task_id[1]) % 2 else FLAT for t in TASKS})
    settings = config(max_rounds=8)
    out = filled(stage, settings, Progress(settings, TASKS, Position()))
    shards = out.shards
    returned = StageTables(shards.rollouts, shards.scores, shards.reference)
    got = assemble(returned, StepMethod(settings.algorithm, settings.plan, AdaptiveState(), 0.05))
    assert got.training.num_rows == settings.plan.trajectories
    assert sorted(got.scored.column("reward").to_pylist()) == [4.0] * 3 + [6.0] * 3
    assert all(any(row) for row in got.training.column("advantages").to_pylist())
    assert shards.images == [f"images of {name}" for name, *_ in stage.orders]


def test_a_key_that_does_not_apply_leaves_the_judgement_to_the_reward() -> None:
    """obj_iou is the same in every sample of t0; t1 has none and its rewards differ; t2 has none and they do not."""
    stage = Stage({"t0": SPREAD, "t1": SPREAD, "t2": FLAT}, iou={"t0": 0.5})
    order = Order("000000", tuple(TASKS[:3]), 2, config().rollout.sampling)
    groups = judge(stage.play(order, 0), DynamicSampling(key="obj_iou", min_spread=0.1, low=0.2))
    assert [group.kept for group in groups] == [False, True, False]
    assert [group.spread for group in groups] == [2.0, 2.0, 0.0]
    assert [group.tokens for group in groups] == [2 * TOKENS] * 3


def test_choice_keeps_order_and_size_whatever_is_kept() -> None:
    for kept in itertools.product([False, True], repeat=4):
        groups = [Group(f"g{i}", f"t{i}", kept=k, spread=float(i % 3), tokens=1) for i, k in enumerate(kept)]
        chosen = choose(groups, 4)
        assert chosen == groups
        fewer = choose(groups, 2)
        assert len(fewer) == max(2, sum(kept))
        assert all(group in fewer for group in groups if group.kept)
        assert fewer == [group for group in groups if group in fewer]


def test_without_dynamic_sampling_nothing_is_judged_or_counted() -> None:
    settings = config().model_copy(
        update={"algorithm": config().algorithm.model_copy(update={"dynamic_sampling": None})}
    )
    assert isinstance(refill_of(settings, cast("Cluster", Stage({}))), EveryGroup)
    assert isinstance(refill_of(config(), cast("Cluster", Stage({}))), DynamicRefill)
    first = Collected([], [], None, [])
    out = EveryGroup().complete(Order("0", tuple(TASKS), 1, settings.rollout.sampling), first, cast("Progress", None))
    assert (out.shards, out.tasks, out.numbers) == (first, tuple(TASKS), {})
