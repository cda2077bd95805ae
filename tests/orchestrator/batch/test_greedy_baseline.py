"""ReMax's baseline: the greedy reply is rewarded as the samples are, its length included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pytest

from actors.player import Order
from orchestrator.batch.greedy_baseline import GreedyBaseline, NoBaseline, baseline_of
from orchestrator.roles.cluster import Collected, Players
from schemas import batch
from schemas.config import Algorithm
from schemas.config.method import Overlong
from schemas.task import NEGATIVE, Task
from tests.small_run import rollout_table

TASKS = tuple(Task(task_id=name, prompt="?", ground_truth=NEGATIVE) for name in ("a", "b"))
LENGTHS = {"a": [3, 3], "b": [4, 5]}


@dataclass
class Stage:
    """Stands for engines and reward at once: each task's greedy reply earns 7, in two turns of known lengths."""

    order: Order | None = None

    @property
    def rollout(self) -> Stage:
        return self

    @property
    def reward(self) -> Stage:
        return self

    def generate(self, order: Order, version: int) -> list[Any]:
        self.order = order
        return []

    def collect(self, pending: list[Any]) -> Collected:
        assert self.order is not None
        rows: list[dict[str, Any]] = [
            {
                "trajectory_id": f"{self.order.name}/{task.task_id}",
                "group_id": task.task_id,
                "kind": self.order.kind,
                "turn_lengths": LENGTHS[task.task_id],
            }
            for task in self.order.tasks
        ]
        scores = [{"trajectory_id": row["trajectory_id"], "reward": 7.0} for row in rows]
        return Collected(
            [rollout_table(rows)],
            [pa.Table.from_pylist(scores, schema=batch.SCORES)],
            None,
            [],
        )


@pytest.mark.parametrize(
    ("overlong", "expected"),
    [(None, {"a": 7.0, "b": 7.0}), (Overlong(limit=10, buffer=4, penalty=2.0), {"a": 7.0, "b": 5.5})],
)
def test_the_greedy_reward_is_shaped_like_the_samples(overlong: Overlong | None, expected: dict[str, float]) -> None:
    stage = Stage()
    baseline = baseline_of(Algorithm(advantage="remax", overlong=overlong), cast("Players", stage))
    assert isinstance(baseline, GreedyBaseline)
    assert baseline.play(3, TASKS) == expected
    assert stage.order is not None
    assert (stage.order.samples, stage.order.sampling.temperature, stage.order.kind) == (1, 0.0, "greedy")


def test_other_advantages_play_nothing() -> None:
    baseline = baseline_of(Algorithm(), cast("Players", None))
    assert isinstance(baseline, NoBaseline)
    assert baseline.play(0, TASKS) is None
