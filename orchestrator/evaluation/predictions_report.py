"""An evaluation report for people: a table on the terminal and a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from orchestrator.telemetry.curves import BLUE, GREEN, GREY, ORANGE
from pointing.metrics import TARGET_SIZES, THRESHOLDS
from schemas.evaluation import EvaluationReport, MetricEstimate

ROWS = (
    ("object_iou", "object mIoU"),
    *[(f"object_acc_{round(100 * t)}", f"object IoU >= {t:g}") for t in THRESHOLDS],
    ("hand_iou", "hand mIoU"),
    ("ray_error_deg", "ray error, degrees"),
    ("ray_rate", "with a ray"),
    ("keypoint_error", "keypoint error / hand"),
    ("keypoint_rate", "with keypoints"),
    ("caption_accuracy", "right names"),
    ("format_rate", "well-formed"),
    ("miss_rate", "silent on positives"),
    ("false_alarm_rate", "marks on negatives"),
)
ACCURACIES = [f"object_acc_{round(100 * t)}" for t in THRESHOLDS]
SHARES = {
    "object_iou": "object\nmIoU",
    "hand_iou": "hand\nmIoU",
    "caption_accuracy": "right\nnames",
    "format_rate": "well-\nformed",
    "miss_rate": "silent on\npositives",
    "false_alarm_rate": "marks on\nnegatives",
}


def print_report(report: EvaluationReport, console: Console | None = None) -> None:
    """One line for each metric that could be measured."""
    table = Table("", "mean", f"{report.confidence:.0%} interval", "replies", *TARGET_SIZES, box=None)
    table.title = f"{report.replies} replies: {report.positives} positives, {report.negatives} negatives"
    table.add_row("reward", *_cells(report.reward), "", "", "")
    for key, name in ROWS:
        if key in report.metrics:
            sizes = [report.by_size.get(size, {}).get(key) for size in TARGET_SIZES]
            table.add_row(name, *_cells(report.metrics[key]), *("" if one is None else _short(one) for one in sizes))
    (console or Console()).print(table)


def _cells(estimate: MetricEstimate) -> tuple[str, str, str]:
    known = estimate.low is not None and estimate.high is not None
    interval = f"{estimate.low:.3f} to {estimate.high:.3f}" if known else "-"
    return f"{estimate.mean:.3f}", interval, str(estimate.count)


def _short(estimate: MetricEstimate) -> str:
    return f"{estimate.mean:.3f} ({estimate.count})"


def plot_report(report: EvaluationReport) -> bytes:
    """Accuracy at each threshold by size of the target, and the other shares, with intervals: the bytes of a PNG."""
    figure = Figure(figsize=(9.5, 3.4), dpi=110, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    groups = {"all": report.metrics, **{size: report.by_size.get(size, {}) for size in TARGET_SIZES}}
    width = 0.8 / len(ACCURACIES)
    for number, (key, colour) in enumerate(zip(ACCURACIES, (BLUE, GREEN, ORANGE), strict=True)):
        places = [at + (number - 1) * width for at in range(len(groups))]
        label = f"IoU of {THRESHOLDS[number]:g} or more"
        _bars(left, places, [known.get(key) for known in groups.values()], width, colour, label)
    left.set_xticks(range(len(groups)), [_name(name, known) for name, known in groups.items()], fontsize=8)
    left.set_title("object found, by size of the target", fontsize=9, loc="left")
    left.legend(fontsize=7, frameon=False)
    _bars(right, list(range(len(SHARES))), [report.metrics.get(key) for key in SHARES], 0.6, BLUE, None)
    right.set_xticks(range(len(SHARES)), list(SHARES.values()), fontsize=7)
    right.set_title(f"mean reward {report.reward.mean:.2f}, {report.replies} replies", fontsize=9, loc="left")
    for axes in (left, right):
        axes.set_ylim(0, 1.02)
        axes.tick_params(labelsize=7, colors=GREY, length=2)
        axes.grid(axis="y", alpha=0.25, linewidth=0.5)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    return png.getvalue()


def _name(name: str, known: Mapping[str, MetricEstimate]) -> str:
    count = known[ACCURACIES[0]].count if ACCURACIES[0] in known else 0
    return f"{name}\n{count} targets"


def _bars(
    axes: Axes,
    places: Sequence[float],
    estimates: Sequence[MetricEstimate | None],
    width: float,
    colour: str,
    label: str | None,
) -> None:
    drawn = [(at, one) for at, one in zip(places, estimates, strict=True) if one is not None]
    axes.bar([at for at, _ in drawn], [one.mean for _, one in drawn], width, color=colour, alpha=0.8, label=label)
    bounded = [(at, one) for at, one in drawn if one.low is not None and one.high is not None]
    below = [max(0.0, one.mean - (one.low or 0.0)) for _, one in bounded]
    above = [max(0.0, (one.high or 0.0) - one.mean) for _, one in bounded]
    middles = [one.mean for _, one in bounded]
    axes.errorbar([at for at, _ in bounded], middles, [below, above], fmt="none", ecolor=GREY, elinewidth=1, capsize=2)
