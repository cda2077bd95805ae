"""What a run prints at its end."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from orchestrator.train_run import Outcome

_SHOWN = (
    ("reward", "reward (0 to 10)"),
    ("object_iou", "object mIoU"),
    ("object_acc_50", "object IoU of 0.5 or more"),
    ("hand_iou", "hand IoU"),
    ("ray_error_deg", "ray error, degrees"),
    ("format_rate", "well-formed replies"),
)


def print_outcome(outcome: Outcome) -> None:
    """Before and after, and where the pictures are."""
    root = outcome.folder.root
    if outcome.after is None:
        print(f"done         {outcome.steps} steps; numbers in {outcome.folder.metrics}")
    else:
        before = outcome.before.numbers if outcome.before is not None else {}
        _print_comparison(before, outcome.after.numbers)
    _print_recoveries(outcome.recoveries)
    print(f"pictures     {root / 'pictures'}")
    print(f"curves       {root / 'curves.png'}")
    print(f"model        {outcome.folder.export}")


def _print_recoveries(numbers: Mapping[str, float]) -> None:
    roles = {key.removeprefix("recovery/"): int(value) for key, value in numbers.items()}
    total = roles.pop("count")
    seconds = roles.pop("seconds")
    if total:
        parts = ", ".join(f"{role} {count}" for role, count in roles.items())
        print(f"recoveries   {total} ({parts}), {seconds} s together; recoveries.jsonl has each")


def _print_comparison(before: Mapping[str, float], after: Mapping[str, float]) -> None:
    table = Table("held-out tasks", "before", "after", "change", "standard error", box=None)
    for mode in ("sampled", "greedy"):
        for key, name in _SHOWN:
            full = f"{mode}/{key}"
            if full not in after:
                continue
            was, now = before.get(full), after[full]
            error = after.get(f"{full}_se")
            table.add_row(
                f"{name}, {mode}",
                "-" if was is None else f"{was:.3f}",
                f"{now:.3f}",
                "-" if was is None else f"{now - was:+.3f}",
                "-" if error is None else f"{error:.3f}",
            )
    Console().print(table)
