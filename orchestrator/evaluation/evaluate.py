"""Held-out evaluation: the same episodes and the same reward as training, other tasks, other sampling.

tasks --sampled n times--> reward, metrics with standard errors      "sampled/..."
      --greedy once------> reward, metrics                           "greedy/..."
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.player import Order
from orchestrator.evaluation.frames import frame_of
from orchestrator.evaluation.overlays import contact_sheet, overlay
from orchestrator.roles.cluster import Pending, Players
from orchestrator.run_folder.folder import RunFolder
from pointing.drawing import open_image
from pointing.metrics import Estimate, measure, summarise
from schemas import batch
from schemas.config import Sampling, Validation
from schemas.task import Task


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Numbers of one evaluation, "sampled/..." and "greedy/...", and the trajectories behind them."""

    numbers: dict[str, float]
    trajectories: pa.Table
    tasks: dict[str, Task]

    @property
    def reward(self) -> float:
        """Mean reward of the sampled trajectories: what decides the best checkpoint."""
        return self.numbers["sampled/reward"]

    def headline(self) -> str:
        """The numbers that a person looks at first."""
        parts = [f"reward {self.reward:.2f}", f"object mIoU {self.numbers.get('sampled/object_iou', math.nan):.3f}"]
        if "greedy/reward" in self.numbers:
            greedy = self.numbers.get("greedy/object_iou", math.nan)
            parts.append(f"greedy: reward {self.numbers['greedy/reward']:.2f}, object mIoU {greedy:.3f}")
        return ", ".join(parts)


def evaluate(players: Players, tasks: Sequence[Task], options: Validation, version: int, step: int) -> Evaluation:
    """Plays every task options.samples times at options.sampling, and once greedily if asked.

    Each trajectory is scored against its own task. Standard errors are over tasks, since draws of one are not
    independent.
    """
    by_id = {task.task_id: task for task in tasks}
    order = Order(f"validation-{step:06d}-sampled", tuple(tasks), options.samples, options.sampling)
    sampled = play(players, order, version)
    numbers = {f"sampled/{key}": value for key, value in numbers_of(sampled, by_id).items()}
    tables = [sampled]
    if options.greedy:
        order = Order(f"validation-{step:06d}-greedy", tuple(tasks), 1, Sampling(temperature=0.0), "greedy")
        greedy = play(players, order, version)
        numbers |= {f"greedy/{key}": value for key, value in numbers_of(greedy, by_id).items()}
        tables.append(greedy)
    return Evaluation(numbers, pa.concat_tables(tables), by_id)


def play(players: Players, order: Order, version: int) -> pa.Table:
    """ROLLOUT and SCORES columns of every trajectory of an order."""
    pending = [
        Pending(shard, players.reward.score(shard), None) for shard in players.rollout.generate(order, version=version)
    ]
    shards = players.collect(pending)
    rollout = batch.concat(shards.rollouts, batch.ROLLOUT, f"{order.name}: rollouts")
    return batch.join(rollout, batch.concat(shards.scores, batch.SCORES, f"{order.name}: scores"), order.name)


def numbers_of(table: pa.Table, tasks: dict[str, Task]) -> dict[str, float]:
    """Mean reward and pointing.metrics of all replies, with standard errors over tasks."""
    rows = table.to_pylist()
    names = [str(row["task_id"]) for row in rows]
    measured = [measure(row["reply"], tasks[row["task_id"]].ground_truth, frame_of(row)) for row in rows]
    reward = Estimate.of([float(row["reward"]) for row in rows], names)
    numbers = summarise(measured, names).flat() | {"reward": reward.mean}
    return numbers if reward.standard_error is None else numbers | {"reward_se": reward.standard_error}


def write_samples(folder: Path, step: int, result: Evaluation, pictures: int) -> None:
    """Writes samples/step-N.parquet (every trajectory) and pictures/step-N.png (the first tasks with overlays)."""
    file = RunFolder(folder).samples(step)
    file.parent.mkdir(exist_ok=True)
    pq.write_table(result.trajectories, file)
    rows = _one_per_task(result.trajectories)[:pictures]
    if not rows:
        return
    (folder / "pictures").mkdir(exist_ok=True)
    sheet = contact_sheet(
        [
            overlay(open_image(task.images[0]), task.ground_truth, row["reply"], frame_of(row))
            for row in rows
            for task in [result.tasks[row["task_id"]]]
        ],
        columns=4,
    )
    sheet.save(folder / "pictures" / f"step-{step:06d}.png")


def _one_per_task(table: pa.Table) -> list[dict[str, Any]]:
    """The last trajectory of each task: the greedy one where there is one."""
    latest = {row["task_id"]: row for row in table.to_pylist()}
    return list(latest.values())
