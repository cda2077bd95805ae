"""What a run prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from orchestrator.evaluation.evaluate import Evaluation
from orchestrator.evaluation.evaluation_table import HEADLINES
from orchestrator.evaluation.paired import MODES, by_task, changes
from orchestrator.report.page import REPORT
from orchestrator.run_folder.folder import RunFolder
from orchestrator.train_run import RunResult


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
    if (root / REPORT).is_file():
        print(f"report       {root / REPORT}")
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
    was = {} if before is None else by_task(before)
    changed = changes(was, by_task(after.trajectories)) if was else {}
    table = Table("held-out tasks", "before", "after", "change", "± standard error", box=None)
    for mode in MODES.values():
        for key, name in HEADLINES:
            full = f"{mode}/{key}"
            now, change = after.numbers.get(full), changed.get(full)
            if now is None:
                continue
            table.add_row(
                f"{name}, {mode}",
                f"{fmean(was[full].values()):.3f}" if full in was else "-",
                f"{now:.3f}",
                "-" if change is None else f"{change.mean:+.3f}",
                "-" if change is None or change.standard_error is None else f"{change.standard_error:.3f}",
            )
    (console or Console()).print(table)
