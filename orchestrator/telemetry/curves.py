"""The curves of a run, drawn from its metrics.jsonl: one small panel for each thing worth watching."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMNS = 4
BLUE, ORANGE, GREEN, PURPLE, GREY = "#2f6fb3", "#e07b2a", "#3a9a5b", "#8457a8", "#777777"


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve of a panel: what to read, how to name and colour it.

    >>> Curve("train", "reward/mean", "training", BLUE).key
    'reward/mean'
    """

    kind: str
    key: str
    label: str
    colour: str


def _training(*lines: tuple[str, str]) -> tuple[Curve, ...]:
    """Training curves of one panel in the usual order of colours."""
    return tuple(
        Curve("train", key, label, colour)
        for (key, label), colour in zip(lines, (BLUE, ORANGE, GREEN, PURPLE, GREY), strict=False)
    )


PANELS: tuple[tuple[str, tuple[Curve, ...]], ...] = (
    (
        "reward",
        (
            Curve("train", "reward/mean", "training", BLUE),
            Curve("validation", "sampled/reward", "held out, sampled", ORANGE),
            Curve("validation", "greedy/reward", "held out, greedy", GREEN),
        ),
    ),
    (
        "object mIoU",
        (
            Curve("train", "reward/obj_iou", "training", BLUE),
            Curve("validation", "sampled/object_iou", "held out, sampled", ORANGE),
            Curve("validation", "greedy/object_iou", "held out, greedy", GREEN),
        ),
    ),
    (
        "hand, ray and keypoint terms",
        _training(("reward/hand_iou", "hand"), ("reward/ray_cos", "ray"), ("reward/kpt_score", "keypoints")),
    ),
    ("format term", _training(("reward/stage2_format", "format"))),
    ("term of negatives", _training(("reward/neg", "reward of negatives"))),
    (
        "spread of reward in a group",
        _training(("reward/group_std", "standard deviation"), ("reward/groups_without_spread", "share without")),
    ),
    (
        "dynamic sampling, groups of a step",
        _training(("dynamic/groups_dropped", "dropped"), ("dynamic/groups_filled", "filled up at the limit")),
    ),
    (
        "loss",
        (
            *_training(("learner/loss", "loss"), ("loss", "loss"), ("learner/policy_loss", "policy")),
            Curve("validation", "loss", "held out", PURPLE),
        ),
    ),
    ("KL to the reference, per token", _training(("learner/kl", "KL"))),
    ("entropy, per token", _training(("learner/entropy", "entropy"))),
    ("gradient norm", _training(("learner/grad_norm", "before clipping"), ("grad_norm", "before clipping"))),
    (
        "share of tokens clipped",
        _training(("learner/clip_high", "high"), ("learner/clip_low", "low"), ("learner/clip_dual", "dual")),
    ),
    (
        "sampler against learner, log-probability",
        _training(("learner/mismatch", "mean difference"), ("learner/mismatch_max", "largest")),
    ),
    (
        "critic: explained variance, share clipped",
        _training(("critic/explained_variance", "explained variance"), ("critic/clip_fraction", "clipped")),
    ),
    ("critic: value and return", _training(("critic/value_mean", "value"), ("critic/return_mean", "return"))),
    ("critic: loss", _training(("critic/loss", "loss"))),
    ("adaptive weight of a group", _training(("adaptive/weight_mean", "mean"), ("adaptive/weight_max", "largest"))),
    ("tokens in a reply", _training(("reply/tokens", "sampled tokens"))),
    (
        "seconds in a step",
        _training(
            ("time/step", "whole step"),
            ("time/rollout", "rollout"),
            ("time/update", "update"),
            ("time/reference", "reference"),
            ("time/publish", "publish"),
        ),
    ),
)

Series = tuple[list[int], list[float]]  # steps, values


def plot_curves(metrics: str | Path, out: str | Path) -> Path:
    """Draws every curve of PANELS that the metrics file has numbers for, as a PNG; returns its path.

    Of a step that was logged twice the last record counts. A file without such numbers gives a
    picture that says so.
    """
    logged = read_series(Path(metrics))
    panels = [(title, [line for line in lines if (line.kind, line.key) in logged]) for title, lines in PANELS]
    panels = [(title, lines) for title, lines in panels if lines]
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(3.9 * columns, 2.6 * rows), dpi=110, layout="constrained", facecolor="white")
    for number, (title, lines) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        _panel(axes, title, lines, logged)
        if number > len(panels) - columns:
            axes.set_xlabel("step", fontsize=8, color=GREY)
    if not panels:
        figure.text(0.5, 0.5, "no numbers logged yet", ha="center", color=GREY)
    beside = Path(out).with_name(Path(out).name + ".partial")
    FigureCanvasAgg(figure).print_png(beside)
    return beside.replace(out)


def read_series(metrics: Path) -> dict[tuple[str, str], Series]:
    """Every numeric series of a metrics file by (kind, key), in the order of steps; of a repeated step the last."""
    records: dict[tuple[str, int], Mapping[str, Any]] = {}
    for text in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record: object = json.loads(text)
        except ValueError:
            continue  # a killed run leaves half a line, and the rest is still worth seeing
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            fields = cast("dict[str, Any]", record)
            records[str(fields.get("kind")), fields["step"]] = fields
    series: dict[tuple[str, str], Series] = {}
    for (kind, step), fields in sorted(records.items(), key=lambda item: item[0][1]):
        for key, value in fields.items():
            if key not in ("step", "time") and isinstance(value, int | float) and math.isfinite(value):
                steps, values = series.setdefault((kind, key), ([], []))
                steps.append(step)
                values.append(float(value))
    return series


def _panel(axes: Axes, title: str, lines: Sequence[Curve], logged: Mapping[tuple[str, str], Series]) -> None:
    for line in lines:
        steps, values = logged[line.kind, line.key]
        if line.kind == "validation":
            axes.plot(steps, values, "o-", color=line.colour, markersize=4, linewidth=1.2, label=line.label)
        elif len(steps) < 30:
            axes.plot(steps, values, ".-", color=line.colour, markersize=4, linewidth=1.2, label=line.label)
        else:
            axes.plot(steps, values, color=line.colour, linewidth=0.6, alpha=0.3)
            axes.plot(steps, smoothed(values), color=line.colour, linewidth=1.6, label=line.label)
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=7, colors=GREY, length=2)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.margins(x=0.02)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(lines) > 1:
        axes.legend(fontsize=7, frameon=False, labelcolor=GREY, handlelength=1.2)


def smoothed(values: Sequence[float]) -> list[float]:
    """Running mean over a window centred on each value, a tenth of the series wide, narrower near the ends.

    >>> smoothed([0.0, 3.0, 0.0])
    [0.0, 3.0, 0.0]
    """
    reach = max(len(values) // 20, 0)
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return ((total[high] - total[low]) / (high - low)).tolist()
