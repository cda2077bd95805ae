"""What training changed on the same held-out tasks: differences by task, and how sure they are.

A task that is hard before is hard after, so the error of the change is that of the differences, which is smaller than
what the errors of both would add up to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import pyarrow as pa

from orchestrator.evaluation.frames import frame_of
from pointing.intervals import Interval, student_quantile
from pointing.metrics import VALUES, measure

MODES = {"sample": "sampled", "greedy": "greedy"}  # kinds of trajectories, and the names of their numbers
ByTask = Mapping[str, Mapping[str, float]]  # of each number, by its name, the mean of each task


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

    def interval(self, confidence: float = 0.95) -> Interval | None:
        """The interval that covers the true mean with this confidence, in (0, 1); None for a single task.

        >>> low, high = PairedChange(mean=2.0, standard_error=1.0, tasks=10).interval()
        >>> round(low, 2), round(high, 2)
        (-0.26, 4.26)
        """
        if self.standard_error is None:
            return None
        reach = student_quantile(NormalDist().inv_cdf((1 + confidence) / 2), self.tasks - 1) * self.standard_error
        return self.mean - reach, self.mean + reach


def changes(before: ByTask, after: ByTask) -> dict[str, PairedChange]:
    """By the names of an evaluation's numbers, where both have them."""
    found = {name: PairedChange.of(before[name], after[name]) for name in after if name in before}
    return {name: change for name, change in found.items() if change is not None}


def by_task(table: pa.Table) -> ByTask:
    """What the trajectories of a validation measure. Draws of a task count as their mean, so all weigh alike."""
    drawn: dict[str, dict[str, list[float]]] = {}

    def note(name: str, task: str, value: float | None) -> None:
        if value is not None:
            drawn.setdefault(name, {}).setdefault(task, []).append(float(value))

    for row in table.to_pylist():
        mode, task = MODES[row["kind"]], str(row["task_id"])
        note(f"{mode}/reward", task, row["reward"])
        measured = measure(row["reply"], row["ground_truth"], frame_of(row))
        for name, value in VALUES.items():
            note(f"{mode}/{name}", task, value(measured))
    return {name: {task: math.fsum(v) / len(v) for task, v in tasks.items()} for name, tasks in drawn.items()}
