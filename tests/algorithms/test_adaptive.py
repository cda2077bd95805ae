"""Adaptive weights: the moving average, every statistic and mapping, and the identity with scaled Dr. GRPO."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.adaptive import AdaptiveState, Mapping, Statistic, group_statistic, weights
from algorithms.advantages import dr_grpo, grpo
from algorithms.reductions import group_index
from schemas.config import Adaptive
from tests.algorithms.options import AdaptiveOptions

SCORES = torch.tensor([0.0, 4.0, 1.0, 1.0, 7.0, 3.0, 5.0], dtype=torch.float64)
GROUPS = torch.tensor([0, 0, 1, 1, 2, 3, 3])
WIDE = {"clip_min": 0.0, "clip_max": 100.0}


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        ("variance", [4.0, 0.0, 0.0, 1.0]),
        ("std", [2.0, 0.0, 0.0, 1.0]),
        ("range", [4.0, 0.0, 0.0, 2.0]),
        ("entropy", [math.log(2), 0.0, 0.0, math.log(2)]),
    ],
)
def test_statistics_by_hand(statistic: Statistic, expected: list[float]) -> None:
    got = group_statistic(SCORES, GROUPS, AdaptiveOptions(statistic=statistic))
    assert got.tolist() == pytest.approx(expected, abs=1e-15)


def test_equal_scores_have_no_spread_although_their_mean_rounds() -> None:
    for statistic in ("variance", "std", "range", "entropy"):
        got = group_statistic(
            torch.full((3,), 0.1, dtype=torch.float64), torch.zeros(3).long(), AdaptiveOptions(statistic=statistic)
        )
        assert got.tolist() == [0.0]


def test_entropy_of_a_group_by_hand() -> None:
    # bins of width 2 over [0, 10]: 0 and 1.9 in the first, 2 in the second, 9 and the maximum 10 in the last
    scores = torch.tensor([0.0, 1.9, 2.0, 9.0, 10.0])
    got = group_statistic(scores, torch.zeros(5, dtype=torch.int64), AdaptiveOptions(statistic="entropy"))
    assert got.item() == pytest.approx(-(2 * 0.4 * math.log(0.4) + 0.2 * math.log(0.2)), rel=1e-12)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ("sqrt", math.sqrt(4 / 2)),
        ("linear", 4 / 2),
        ("power", (4 / 2) ** 0.7),
        ("log", math.log(1 + 3.0 * 4 / 2)),
    ],
)
def test_mappings_by_hand(mapping: Mapping, expected: float) -> None:
    options = AdaptiveOptions(mapping=mapping, power=0.7, log_alpha=3.0, clip_min=0.0, clip_max=100.0)
    got, _, _ = weights(SCORES, GROUPS, AdaptiveState(2.0), options)
    assert got[0].item() == pytest.approx(expected, rel=1e-12)
    assert got[0] == got[1]
    assert got[4].item() == 0.0


def test_moving_average_is_updated_after_use_and_starts_from_the_first_batch() -> None:
    options = AdaptiveOptions(momentum=0.9)
    mean = (4.0 + 0.0 + 0.0 + 1.0) / 4
    first, state, s_mean = weights(SCORES, GROUPS, AdaptiveState(options.initial), options)
    assert s_mean == mean
    assert state.g == pytest.approx(mean, rel=1e-15)
    assert first[0].item() == pytest.approx(math.sqrt(4 / mean), rel=1e-15)
    second, state, _ = weights(SCORES * 2, GROUPS, state, options)
    assert second[0].item() == 3.0  # sqrt(16 / 1.25) = 3.58, clipped
    assert second[5].item() == pytest.approx(math.sqrt(4 / mean), rel=1e-15)
    assert state.g == pytest.approx(0.9 * mean + 0.1 * 4 * mean, rel=1e-15)


def test_published_start_saturates_for_the_first_steps() -> None:
    """A fixed G of 0.1 against a steady variance of 2: a gain of 3 that fades over 40 steps."""
    options = AdaptiveOptions(initial=0.1, momentum=0.95)
    state, scores, seen = AdaptiveState(options.initial), torch.tensor([0.0, 8.0**0.5]), {}
    for step in range(41):
        w, state, _ = weights(scores, torch.tensor([0, 0]), state, options)
        seen[step] = round(w[0].item(), 2)
    assert [seen[k] for k in (0, 1, 2, 5, 10, 20, 40)] == [3.0, 3.0, 2.65, 1.94, 1.52, 1.23, 1.07]


def test_a_first_batch_without_spread_leaves_the_average_unset() -> None:
    options = AdaptiveOptions()
    w, state, s_mean = weights(torch.ones(4), torch.tensor([0, 0, 1, 1]), AdaptiveState(options.initial), options)
    assert (state.g, s_mean) == (None, 0.0)
    assert w.tolist() == [0.3] * 4
    w, state, _ = weights(SCORES, GROUPS, state, options)
    assert state.g == pytest.approx(1.25)


def test_batch_baseline_and_normalisation_by_hand() -> None:
    options = AdaptiveOptions(baseline="batch", mapping="linear", normalize=True, **WIDE)
    got, _, _ = weights(SCORES, GROUPS, AdaptiveState(1e6), options)
    raw = [v / (1.25 + 1e-6) for v in (4, 4, 0, 0, 0, 1, 1)]
    assert got.tolist() == pytest.approx([v / (sum(raw) / 7 + 1e-6) for v in raw], rel=1e-12)


def test_normalisation_comes_after_the_clip() -> None:
    options = AdaptiveOptions(mapping="linear", normalize=True, clip_min=0.5, clip_max=2.0)
    got, _, _ = weights(SCORES, GROUPS, AdaptiveState(1.0), options)
    clipped = [2.0, 2.0, 0.5, 0.5, 0.5, 1.0, 1.0]
    assert got.tolist() == pytest.approx([v / (7.5 / 7 + 1e-6) for v in clipped], rel=1e-12)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 10).map(lambda v: round(v, 2)), st.integers(0, 2)), min_size=1, max_size=12),
    st.floats(0.01, 50),
)
def test_default_weight_times_grpo_is_scaled_dr_grpo(rows: list[tuple[float, int]], g: float) -> None:
    scores = torch.tensor([s for s, _ in rows], dtype=torch.float64)
    groups = group_index([k for _, k in rows])
    w, _, _ = weights(scores, groups, AdaptiveState(g), AdaptiveOptions(clip_min=0.0, clip_max=1e9))
    n = torch.bincount(groups)[groups].double()
    expected = ((n - 1) / n).sqrt() * dr_grpo(scores, groups) / g**0.5
    # GRPO adds 1e-6 to a standard deviation that is at least 0.005 / sqrt(n) here
    assert torch.allclose(w * grpo(scores, groups), expected, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_what_is_not_finite_raises_and_never_resets_the_average(value: float) -> None:
    scores = SCORES.clone()
    scores[1] = value
    with pytest.raises(ValueError, match=r"(reward of trajectory 1|variance of the group)"):
        weights(scores, GROUPS, AdaptiveState(2.0), AdaptiveOptions())
    with pytest.raises(ValueError, match="G is nan"):
        weights(SCORES, GROUPS, AdaptiveState(float("nan")), AdaptiveOptions())


@pytest.mark.parametrize(
    ("field", "value"),
    [("momentum", 1.5), ("eps", 0.0), ("clip_min", 4.0), ("initial", 0.0), ("power", 0.0), ("entropy_bins", 1)],
)
def test_options_name_the_field_and_value(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field}[\s\S]*{value:g}"):
        Adaptive.model_validate({field: value})
