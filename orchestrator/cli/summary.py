"""What a run prints at its end."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from orchestrator.evaluation.evaluate import Evaluation
from orchestrator.evaluation.paired import MODES, changes, means
from orchestrator.run_folder.folder import RunFolder
from orchestrator.train_run import RunResult

_SHOWN = (
    ("reward", "reward (0 to 10)"),
    ("object_iou", "object mIoU"),
    ("object_acc_50", "object IoU of 0.5 or more"),
    ("caption_accuracy", "right names"),
    ("hand_iou", "hand IoU"),
    ("ray_error_deg", "ray error, degrees"),
    ("keypoint_error", "keypoint error, hand diagonals"),
    ("format_rate", "well-formed replies"),
)


def print_outcome(outcome: RunResult) -> None:
    """Before and after, and where the pictures are."""
    root = outcome.folder.root
    if outcome.after is None:
        print(f"done         {outcome.steps} steps; numbers in {outcome.folder.metrics}")
    else:
        print_comparison(_trajectories(outcome.before, outcome.folder), outcome.after)
    _print_recoveries(outcome.recoveries)
    if not outcome.earned:
        print("warning      no reply of this call's steps earned anything: there was nothing to learn from")
    print(f"pictures     {root / 'pictures'}")
    print(f"curves       {root / 'curves.png'}")
    print(f"model        {outcome.folder.export}")


def _trajectories(before: Evaluation | None, folder: RunFolder) -> pa.Table | None:
    """Those of the validation before training, of an earlier call where a run was continued."""
    if before is not None:
        return before.trajectories
    file = folder.samples(0)
    return pq.read_table(file) if file.is_file() else None


def _print_recoveries(numbers: Mapping[str, float]) -> None:
    roles = {key.removeprefix("recovery/"): int(value) for key, value in numbers.items()}
    total = roles.pop("count")
    seconds = roles.pop("seconds")
    if total:
        parts = ", ".join(f"{role} {count}" for role, count in roles.items())
        print(f"recoveries   {total} ({parts}), {seconds} s together; recoveries.jsonl has each")


def print_comparison(before: pa.Table | None, after: Evaluation, console: Console | None = None) -> None:
    """Means of the held-out tasks before and after, and the change with its standard error.

    The error is that of the differences by task: both were measured on the same ones.
    """
    was = {} if before is None else means(before)
    changed = {} if before is None else changes(before, after.trajectories)
    table = Table("held-out tasks", "before", "after", "change", "± standard error", box=None)
    for mode in MODES.values():
        for key, name in _SHOWN:
            full = f"{mode}/{key}"
            now, change = after.numbers.get(full), changed.get(full)
            if now is None:
                continue
            table.add_row(
                f"{name}, {mode}",
                f"{was[full]:.3f}" if full in was else "-",
                f"{now:.3f}",
                "-" if change is None else f"{change.mean:+.3f}",
                "-" if change is None or change.standard_error is None else f"{change.standard_error:.3f}",
            )
    (console or Console()).print(table)
