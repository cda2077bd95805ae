"""Confidence intervals against tables, by hand, and by how often they cover the truth."""

import numpy as np
import pytest

from pointing.intervals import interval, is_share, student_quantile
from pointing.metrics import Estimate, measure, summarise


@pytest.mark.parametrize(
    ("freedom", "expected"), [(2, 4.303), (3, 3.182), (5, 2.571), (9, 2.262), (30, 2.042), (1000, 1.962)]
)
def test_quantiles_as_in_tables(freedom, expected):
    assert student_quantile(1.959964, freedom) == pytest.approx(expected, rel=0.01)


def test_shares_by_hand():
    # z = 1.96, n = 10, nothing seen: the upper end is z^2 / (n + z^2)
    low, high = interval("miss_rate", Estimate.of([0.0] * 10))
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(1.959964**2 / (10 + 1.959964**2))
    low, high = interval("object_acc_50_small", Estimate.of([1.0]))
    assert (low, high) == pytest.approx((1 / (1 + 1.959964**2), 1))


def test_means_by_hand():
    low, high = interval("object_iou", Estimate.of([1.0, 2.0, 3.0]))
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(4.303 / np.sqrt(3), rel=0.01)
    assert interval("object_iou", Estimate.of([1.0])) is None
    assert interval("object_iou", Estimate.of([2.0, 2.0])) == (2, 2)


@pytest.mark.parametrize("name", ["miss_rate", "object_iou"])
def test_ninety_percent_cover_the_truth_about_ninety_times_in_a_hundred(name):
    draw = np.random.default_rng(5)
    rows = draw.random((2000, 12)) if name == "object_iou" else (draw.random((2000, 12)) < 0.3).astype(float)
    truth = 0.5 if name == "object_iou" else 0.3
    inside = 0
    for row in rows:
        low, high = interval(name, Estimate.of(row.tolist()), 0.9)
        inside += low <= truth <= high
    assert 0.86 < inside / 2000 < 0.96


@pytest.mark.parametrize("name", ["miss_rate", "object_iou"])
def test_intervals_cover_the_truth_when_draws_of_a_task_are_alike(name):
    """20 tasks of 3 draws that follow the task's own level; taken for independent, 60 draws would cover less often."""
    draw = np.random.default_rng(6)
    levels = draw.beta(0.5, 0.5, (2000, 20, 1))
    values = (draw.random((2000, 20, 3)) < levels).astype(float) if name == "miss_rate" else levels.repeat(3, -1)
    tasks = np.arange(20).repeat(3).tolist()
    covered = {"tasks": 0, "draws": 0}
    for row in values.reshape(2000, 60).tolist():
        for key, estimate in (("tasks", Estimate.of(row, tasks)), ("draws", Estimate.of(row))):
            low, high = interval(name, estimate, 0.9)
            covered[key] += low <= 0.5 <= high
    assert 0.86 < covered["tasks"] / 2000 < 0.95
    assert covered["draws"] / 2000 < 0.83


def test_a_share_without_spread_counts_tasks():
    alone, drawn = Estimate.of([0.0] * 10), Estimate.of([0.0] * 30, list(range(10)) * 3)
    assert interval("miss_rate", drawn) == interval("miss_rate", alone)
    even = Estimate.of([0.0, 1.0] * 10, np.arange(10).repeat(2).tolist())  # no spread between tasks: draws count
    assert interval("miss_rate", even) == interval("miss_rate", Estimate.of([0.0, 1.0] * 10))
    low, high = interval("miss_rate", Estimate.of([0.0, 1.0, 1.0], ["a"] * 3))
    assert high - low > 0.7  # one task, whatever its draws


def test_every_metric_is_known_as_a_share_or_not():
    names = summarise([measure("<|box_start|>[0, 0, 9, 9]<|box_end|>", {"obj_bbox": [0, 0, 9, 9], "obj_name": "x"})])
    shares = {name for name in names.estimates if is_share(name)}
    assert shares == {"caption_accuracy", "format_rate", "miss_rate", "object_acc_25", "object_acc_50", "object_acc_75"}


@pytest.mark.parametrize("confidence", [0, 1, -1, 95])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval("miss_rate", Estimate.of([0.0]), confidence)
