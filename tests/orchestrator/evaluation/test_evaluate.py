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
    # What a task's draws exceed the mean by, together: 14 - 9.6, 0 - 9.6, 10 - 4.8. Of 3 tasks and 5 draws.
    assert numbers["reward_se"] == pytest.approx(math.sqrt(3 * (4.4**2 + 9.6**2 + 5.2**2) / 2) / 5)
    assert numbers["object_iou"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    # Task means 0.75 and 0: their standard deviation over the root of two tasks.
    assert numbers["object_iou_se"] == pytest.approx(0.75 / math.sqrt(2) / math.sqrt(2))
    # Both draws of a task agree here, so that four draws say no more than two tasks.
    assert numbers["miss_rate_se"] == pytest.approx(1 / math.sqrt(2) / math.sqrt(2))
    assert numbers["false_alarm_rate"] == 0


def test_every_error_knows_the_draws_of_a_task() -> None:
    """Three equal draws of each task: every error is that of one draw."""
    truth = GroundTruth(obj_bbox=(0, 0, 10, 10), hand_bbox=(0, 0, 10, 10), obj_name="x")
    tasks = {f"t{i}": Task(task_id=f"t{i}", prompt="?", ground_truth=truth) for i in range(6)}
    replies = ["", *(BOX.format(f"0, 0, 10, {2 * i}") for i in range(1, 6))]
    once = [row(f"t{i}", reply, float(i)) for i, reply in enumerate(replies)]
    single, triple = (numbers_of(pa.Table.from_pylist(rows), tasks) for rows in (once, once * 3))
    errors = {key: value for key, value in single.items() if key.endswith("_se")}
    assert {key: triple[key] for key in errors} == pytest.approx(errors)
    assert errors["hand_iou_se"] > 0
    assert {"reward_se", "caption_accuracy_se", "object_acc_50_se", "miss_rate_se"} < errors.keys()


def test_a_single_task_has_no_standard_error() -> None:
    task = Task(task_id="a", prompt="?", ground_truth=GroundTruth(obj_bbox=(0, 0, 10, 10)))
    numbers = numbers_of(pa.Table.from_pylist([row("a", "", 0.0)]), {"a": task})
    assert "reward_se" not in numbers
