"""What training changed on the same held-out tasks: differences by task, and how sure they are.

A task that is hard before is hard after, so the error of the change is that of the differences, which is smaller than
what the errors of both would add up to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from orchestrator.evaluation.evaluate import frame_of
from pointing.metrics import Measurement, measure

MODES = {"sample": "sampled", "greedy": "greedy"}  # kinds of trajectories, and the names of their numbers
Value = Callable[[Measurement], float | None]
METRICS: Mapping[str, Value] = {
    "object_iou": lambda m: m.object_iou,
    "object_acc_50": lambda m: None if m.object_iou is None else m.object_iou >= 0.5,
    "caption_accuracy": lambda m: m.caption_correct,
    "hand_iou": lambda m: m.hand_iou,
    "ray_error_deg": lambda m: m.ray_error,
    "keypoint_error": lambda m: m.keypoint_error,
    "format_rate": lambda m: m.well_formed,
}


@dataclass(frozen=True, slots=True)
class PairedChange:
    """The mean over tasks of after - before. `standard_error` is None for a single task.

    >>> PairedChange.of({"a": 0.0, "b": 1.0, "c": 5.0}, {"a": 1.0, "b": 4.0})
    PairedChange(mean=2.0, standard_error=1.0, tasks=2)
    """

    mean: float
    standard_error: float | None
    tasks: int

    @classmethod
    def of(cls, before: Mapping[str, float], after: Mapping[str, float]) -> PairedChange | None:
        """Of the tasks that have a value in both; None where there is none."""
        moved = [after[task] - before[task] for task in before if task in after]
        if not moved:
            return None
        mean = math.fsum(moved) / len(moved)
        if len(moved) == 1:
            return cls(mean, None, 1)
        variance = math.fsum((each - mean) ** 2 for each in moved) / (len(moved) - 1)
        return cls(mean, math.sqrt(variance / len(moved)), len(moved))


def changes(before: pa.Table, after: pa.Table) -> dict[str, PairedChange]:
    """By the names of an evaluation's numbers, from two tables of the trajectories of validations.

    Draws of one task count as their mean, so every task weighs the same.
    """
    was, now = _by_task(before), _by_task(after)
    found = {name: PairedChange.of(was[name], now[name]) for name in now if name in was}
    return {name: change for name, change in found.items() if change is not None}


def means(table: pa.Table) -> dict[str, float]:
    """The mean over tasks of each number; draws of one task count as their mean."""
    return {name: math.fsum(tasks.values()) / len(tasks) for name, tasks in _by_task(table).items()}


def _by_task(table: pa.Table) -> dict[str, dict[str, float]]:
    """Means of each task by the name of the number."""
    drawn: dict[str, dict[str, list[float]]] = {}

    def note(name: str, task: str, value: float | None) -> None:
        if value is not None:
            drawn.setdefault(name, {}).setdefault(task, []).append(float(value))

    for row in table.to_pylist():
        mode, task = MODES[row["kind"]], str(row["task_id"])
        note(f"{mode}/reward", task, row["reward"])
        measured = measure(row["reply"], row["ground_truth"], frame_of(row))
        for name, value in METRICS.items():
            note(f"{mode}/{name}", task, value(measured))
    return {name: {task: math.fsum(v) / len(v) for task, v in tasks.items()} for name, tasks in drawn.items()}
