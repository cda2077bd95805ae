"""Two validations on the same tasks: means, the paired change, and whether it is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from orchestrator.evaluation.evaluation_table import GROUPS, MetricRow
from orchestrator.evaluation.paired import MODES, ByTask, PairedChange

Verdict = Literal["better", "worse", "no clear change"]
LOWER_IS_BETTER = ("ray_error_deg", "keypoint_error", "miss_rate", "false_alarm_rate")
METRICS: tuple[MetricRow, ...] = tuple(row for name, rows in GROUPS if name != "object by size" for row in rows)


@dataclass(frozen=True, slots=True)
class ChangeCells:
    """A change for people: its mean, its 95 % interval, and what to make of it. "-" where there is no change to see.

    >>> ChangeCells("+0.10", "+0.02 to +0.18", "better").verdict
    'better'
    """

    mean: str = "-"
    interval: str = "-"
    verdict: Verdict | Literal[""] = ""


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric: its name with unit, its value in each validation, and the change of each from the first."""

    name: str
    mode: str
    values: tuple[str, ...]
    changes: tuple[ChangeCells, ...]


def metric_changes(validations: list[ByTask]) -> list[MetricChange]:
    """Every metric that was measured in some of the validations; changes are those of the second, third... from the
    first, by task."""
    found: list[MetricChange] = []
    for mode in MODES.values():
        for row in METRICS:
            name = f"{mode}/{row.key}"
            known = [validation.get(name, {}) for validation in validations]
            if any(known):
                changes = tuple(_cells(row, known[0], other) for other in known[1:])
                found.append(MetricChange(_name(row), mode, tuple(_mean(row, one) for one in known), changes))
    return found


def _name(row: MetricRow) -> str:
    return f"{row.name}, {row.unit}" if row.unit else row.name


def _mean(row: MetricRow, values: Mapping[str, float]) -> str:
    return row.shown(fmean(values.values()) if values else None, None)


def _cells(row: MetricRow, before: Mapping[str, float], after: Mapping[str, float]) -> ChangeCells:
    change = PairedChange.of(before, after)
    if change is None:
        return ChangeCells()
    bounds = change.interval()
    if bounds is None:
        return ChangeCells(_signed(row, change.mean))
    low, high = bounds
    return ChangeCells(
        _signed(row, change.mean), f"{_signed(row, low)} to {_signed(row, high)}", verdict(row.key, low, high)
    )


def _signed(row: MetricRow, value: float) -> str:
    return f"{value * row.factor:+.{row.decimals}f}"


def verdict(key: str, low: float, high: float) -> Verdict:
    """What a 95 % interval of a metric's change says; one that holds 0 says nothing.

    >>> verdict("ray_error_deg", -2.0, -0.5)
    'better'
    """
    if low <= 0 <= high:
        return "no clear change"
    return "better" if (high < 0) == (key in LOWER_IS_BETTER) else "worse"
