"""The numbers of an evaluation for people: a table by kind, with units and 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from pointing.metrics import TARGET_SIZES, THRESHOLDS

Z_95 = 1.96  # half a 95 % interval in standard errors, for a mean of many tasks
MODES = (("sampled", "draws"), ("greedy", "greedy"))


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric: its key without the mode, its name for people, its unit, what it is multiplied by, and decimals.

    >>> MetricRow("object_iou", "object mIoU").shown(0.5, 0.01)
    '0.500 ± 0.020'
    """

    key: str
    name: str
    unit: str = ""
    factor: float = 1.0
    decimals: int = 3

    def shown(self, value: float | None, error: float | None) -> str:
        """The value with half its 95 % interval, in the row's unit; "-" where it was not measured."""
        if value is None:
            return "-"
        text = f"{value * self.factor:.{self.decimals}f}"
        return text if error is None else f"{text} ± {Z_95 * error * self.factor:.{self.decimals}f}"


def _share(key: str, name: str) -> MetricRow:
    return MetricRow(key, name, "%", 100.0, 1)


def _found(size: str = "") -> list[MetricRow]:
    """The shares of targets that were found, at each threshold, of all targets or of one size."""
    behind = f"_{size}" if size else ""
    which = f", {size} targets" if size else ""
    return [_share(f"object_acc_{round(100 * t)}{behind}", f"object IoU of {t:g} or more{which}") for t in THRESHOLDS]


GROUPS: Sequence[tuple[str, Sequence[MetricRow]]] = (
    ("reward", (MetricRow("reward", "reward", "of 10", decimals=2),)),
    ("object", (MetricRow("object_iou", "object mIoU"), *_found(), _share("caption_accuracy", "right names"))),
    ("object by size", tuple(row for size in TARGET_SIZES for row in _found(size))),
    (
        "hand and ray",
        (
            MetricRow("hand_iou", "hand mIoU"),
            MetricRow("ray_error_deg", "ray error", "degrees", decimals=1),
            _share("ray_rate", "with a ray"),
            MetricRow("keypoint_error", "keypoint error", "hand diagonals"),
            _share("keypoint_rate", "with keypoints"),
        ),
    ),
    (
        "replies",
        (
            _share("format_rate", "well-formed"),
            _share("miss_rate", "silent where a hand points"),
            _share("false_alarm_rate", "marks where none does"),
        ),
    ),
)


# What is looked at first, at a run's end and in a model card: numbers of a validation without the mode, and names.
HEADLINES: Sequence[tuple[str, str]] = (
    ("reward", "reward (0 to 10)"),
    ("object_iou", "object mIoU"),
    ("object_acc_50", "object IoU of 0.5 or more"),
    ("caption_accuracy", "right names"),
    ("hand_iou", "hand IoU"),
    ("ray_error_deg", "ray error, degrees"),
    ("keypoint_error", "keypoint error, hand diagonals"),
    ("format_rate", "well-formed replies"),
)


def print_evaluation(numbers: Mapping[str, float], console: Console | None = None) -> None:
    """Prints what was measured, "sampled/..." beside "greedy/...". Intervals are given where errors are known."""
    modes = [(mode, title) for mode, title in MODES if f"{mode}/reward" in numbers]
    table = Table("", *(title for _, title in modes), "", box=None, title=_counted(numbers, modes[0][0]))
    for group, rows in GROUPS:
        measured = [row for row in rows if any(f"{mode}/{row.key}" in numbers for mode, _ in modes)]
        if not measured:
            continue
        table.add_section()
        table.add_row(f"[bold]{group}[/bold]")
        for row in measured:
            found = [(numbers.get(f"{mode}/{row.key}"), numbers.get(f"{mode}/{row.key}_se")) for mode, _ in modes]
            table.add_row(f"  {row.name}", *(row.shown(value, error) for value, error in found), row.unit)
    (console or Console()).print(table)


def _counted(numbers: Mapping[str, float], mode: str) -> str:
    replies, positives, negatives = (round(numbers[f"{mode}/{key}"]) for key in ("replies", "positives", "negatives"))
    return f"{replies} replies, {positives} where a hand points and {negatives} where none does; ± is a 95 % interval"
