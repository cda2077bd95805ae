"""Numbers of an evaluation: hand-worked means, and standard errors over tasks and not over draws."""

import math
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.evaluation.evaluate import numbers_of
from schemas.task import NEGATIVE, GroundTruth, Task

BOX = "<answer><|caption_start|>x<|caption_end|> <|box_start|>[{}]<|box_end|></answer>"


def row(task: str, reply: str, reward: float) -> dict[str, Any]:
    size = [100, 100]
    return {
        "task_id": task,
        "reply": reply,
        "reward": reward,
        "frame": "pixels",
        "original_size": size,
        "seen_size": size,
    }


def test_means_and_errors_are_those_of_tasks() -> None:
    tasks = {
        "a": Task(task_id="a", prompt="?", ground_truth=GroundTruth(obj_bbox=(0, 0, 10, 10))),
        "b": Task(task_id="b", prompt="?", ground_truth=GroundTruth(obj_bbox=(0, 0, 10, 10))),
        "c": Task(task_id="c", prompt="?", ground_truth=NEGATIVE),
    }
    hit, half = BOX.format("0, 0, 10, 10"), BOX.format("0, 0, 10, 5")
    table = pa.Table.from_pylist(
        [row("a", hit, 8.0), row("a", half, 6.0), row("b", "", 0.0), row("b", "", 0.0), row("c", "", 10.0)]
    )
    numbers = numbers_of(table, tasks)
    assert numbers["reward"] == pytest.approx(24 / 5)
    # Task means 7, 0, 10: variance over tasks 26 1/3.
    assert numbers["reward_se"] == pytest.approx(math.sqrt((79 / 3) / 3))
    assert numbers["object_iou"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    # Task means 0.75 and 0: their standard deviation over the root of two tasks.
    assert numbers["object_iou_se"] == pytest.approx(0.75 / math.sqrt(2) / math.sqrt(2))
    assert numbers["false_alarm_rate"] == 0


def test_a_single_task_has_no_standard_error() -> None:
    task = Task(task_id="a", prompt="?", ground_truth=GroundTruth(obj_bbox=(0, 0, 10, 10)))
    numbers = numbers_of(pa.Table.from_pylist([row("a", "", 0.0)]), {"a": task})
    assert "reward_se" not in numbers
