"""Changes on the same tasks, by hand; the table at the end of a run; and the warning when nothing was earned."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.cli.summary import print_comparison
from orchestrator.evaluation.evaluate import Evaluation, numbers_of
from orchestrator.evaluation.nothing_earned import nothing_earned
from orchestrator.evaluation.paired import PairedChange, by_task, changes
from pointing.rewards import score
from schemas.task import GroundTruth, Task

TRUTH = GroundTruth(obj_bbox=(0, 0, 10, 10), obj_name="cup")
TASKS = {name: Task(task_id=name, prompt="?", images=("a.png",), ground_truth=TRUTH) for name in "abc"}


def said(width: int, name: str = "cup") -> str:
    """A box that covers `width` of the target's 10 columns, so an IoU of width / 10."""
    return (
        f"<|caption_start|>{name}<|caption_end|> <|box_start|>[0, 0, {width}, 10]<|box_end|>" if width else "no answer"
    )


def table(kind: str = "sample", **replies: list[str]) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "kind": kind,
            "task_id": task,
            "reply": reply,
            "ground_truth": TRUTH.model_dump_json(exclude_none=True),
            "frame": "pixels",
            "original_size": [20, 20],
            "seen_size": [20, 20],
            "reward": score(reply, TRUTH).reward,
        }
        for task, drawn in replies.items()
        for reply in drawn
    ]
    return pa.Table.from_pylist(rows)


BEFORE = table(a=[said(2), said(4)], b=[said(5, "box"), said(5)], c=[said(0), said(0)])
AFTER = table(a=[said(4), said(6)], b=[said(9), said(9)], c=[said(6), said(6)])


def test_changes_by_hand() -> None:
    found = changes(by_task(BEFORE), by_task(AFTER))
    # Tasks change by 0.2, 0.4 and 0.6: a mean of 0.4, and a standard deviation of 0.2 over three.
    assert found["sampled/object_iou"].mean == pytest.approx(0.4)
    assert found["sampled/object_iou"].standard_error == pytest.approx(0.2 / 3**0.5)
    assert found["sampled/caption_accuracy"].mean == pytest.approx((0 + 0.5 + 1) / 3)
    assert "sampled/ray_error_deg" not in found  # no ray is known


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=9), st.floats(-5, 5))
def test_what_all_tasks_share_does_not_count_as_error(pairs: list[tuple[float, float]], shift: float) -> None:
    before = {str(i): a for i, (a, _) in enumerate(pairs)}
    after = {str(i): b for i, (_, b) in enumerate(pairs)}
    plain, moved = (
        PairedChange.of(before, after),
        PairedChange.of(before, {task: value + shift for task, value in after.items()}),
    )
    assert plain is not None
    assert moved is not None
    assert moved.mean == pytest.approx(plain.mean + shift, abs=1e-9)
    assert moved.standard_error == pytest.approx(plain.standard_error, abs=1e-7)
    same = PairedChange.of(before, {task: value + shift for task, value in before.items()})
    assert same is not None
    assert same.standard_error == pytest.approx(0, abs=1e-7)


def test_the_last_table_gives_the_error_of_the_change_and_the_names(tmp_path: Path) -> None:
    numbers = {f"sampled/{key}": value for key, value in numbers_of(AFTER, TASKS).items()}
    out = io.StringIO()
    print_comparison(BEFORE, Evaluation(numbers, AFTER, TASKS), Console(file=out, width=140))
    lines = {line.strip().split("  ")[0]: line.split() for line in out.getvalue().splitlines()}
    assert lines["object mIoU, sampled"][-4:] == ["0.267", "0.667", "+0.400", "0.115"]
    assert lines["right names, sampled"][-4:-1] == ["0.500", "1.000", "+0.500"]
    out = io.StringIO()
    print_comparison(None, Evaluation(numbers, AFTER, TASKS), Console(file=out, width=140))
    lines = {line.strip().split("  ")[0]: line.split() for line in out.getvalue().splitlines()}
    assert lines["object mIoU, sampled"][-4:] == ["-", "0.667", "-", "-"]


def test_a_batch_that_earned_nothing_is_said_with_a_reply_and_what_to_do() -> None:
    native = '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cup"}]\n```<|im_end|>'
    text = nothing_earned(table(a=[native, ""], b=[""]))
    assert text is not None
    assert text.startswith("none of 3 replies earned anything")
    assert repr(native) in text
    assert "boxes in a form of its own, not <|box_start|>" in text
    assert "pointvg sft" in text
    assert "no call of draw_ray" in str(nothing_earned(table(a=["It is a cup."])))
    assert len(str(nothing_earned(table(a=["x" * 9000])))) < 1000


def test_a_batch_that_earned_something_is_not() -> None:
    assert nothing_earned(BEFORE) is None
    negative = pa.Table.from_pylist([row | {"reward": -float(i)} for i, row in enumerate(BEFORE.to_pylist())])
    assert nothing_earned(negative) is None  # a reward of one's own, which can be learned from
    assert nothing_earned(BEFORE.slice(0, 0)) is None
