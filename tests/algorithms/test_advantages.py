"""Advantages of sequences: by hand, against a slow oracle, and at the edges."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from algorithms.advantages import dr_grpo, group_stats, grpo, grpo_passk, remax, rloo
from algorithms.reductions import group_index

GROUPS = torch.tensor([0, 1, 0, 1, 0, 2])
SCORES = torch.tensor([1.0, 5.0, 2.0, 5.0, 6.0, 9.0], dtype=torch.float64)
# group 0 = 1, 2, 6: mean 3, sample variance (4 + 1 + 9) / 2 = 7; group 1 is flat; group 2 is alone
STD = 7**0.5 + 1e-6


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (dr_grpo, [-2.0, 0.0, -1.0, 0.0, 3.0, 0.0]),
        (grpo, [-2.0 / STD, 0.0, -1.0 / STD, 0.0, 3.0 / STD, 0.0]),
        (rloo, [1 - 8 / 2, 0.0, 2 - 7 / 2, 0.0, 6 - 3 / 2, 0.0]),
        (grpo_passk, [0.0, 0.0, 0.0, 0.0, 4.0 / STD, 0.0]),
    ],
)
def test_by_hand(function: Callable[[Tensor, Tensor], Tensor], expected: list[float]) -> None:
    got = function(SCORES, GROUPS)
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(expected, rel=1e-14, abs=0)


def oracle(name: str, scores: list[float], groups: list[int]) -> list[float]:
    members = {g: [s for s, k in zip(scores, groups, strict=True) if k == g] for g in groups}
    out: list[float] = []
    for i, (s, g) in enumerate(zip(scores, groups, strict=True)):
        rest = [scores[j] for j in range(len(scores)) if groups[j] == g and j != i]
        if not rest or max(members[g]) == min(members[g]):
            out.append(0.0)
        elif name == "dr_grpo":
            out.append(s - statistics.fmean(members[g]))
        elif name == "grpo":
            out.append((s - statistics.fmean(members[g])) / (statistics.stdev(members[g]) + 1e-6))
        elif name == "rloo":
            out.append(s - statistics.fmean(rest))
        else:
            first_best = s == max(members[g]) and s not in [scores[j] for j in range(i) if groups[j] == g]
            out.append((s - max(rest)) / (statistics.stdev(members[g]) + 1e-6) if first_best else 0.0)
    return out


score_lists = st.lists(
    st.tuples(st.floats(-10, 10).map(lambda v: round(v, 3)), st.integers(0, 3)), min_size=1, max_size=14
)


@settings(max_examples=150, deadline=None)
@given(score_lists)
def test_against_a_slow_oracle(rows: list[tuple[float, int]]) -> None:
    scores, names = [s for s, _ in rows], [g for _, g in rows]
    for function in (dr_grpo, grpo, rloo, grpo_passk):
        got = function(torch.tensor(scores, dtype=torch.float64), group_index(names))
        assert got.tolist() == pytest.approx(oracle(function.__name__, scores, names), rel=1e-9, abs=1e-9)


def test_equal_scores_give_exactly_zero_although_their_mean_rounds() -> None:
    scores = torch.full((3,), 0.1, dtype=torch.float64)
    groups = torch.zeros(3, dtype=torch.int64)
    for function in (dr_grpo, grpo, rloo, grpo_passk):
        assert function(scores, groups).tolist() == [0.0, 0.0, 0.0]


def test_pass_at_k_gives_the_others_nothing_and_a_tie_nothing() -> None:
    groups = torch.zeros(3, dtype=torch.int64)
    assert grpo_passk(torch.tensor([4.0, 4.0, 1.0]), groups).tolist() == [0.0, 0.0, 0.0]
    assert grpo_passk(torch.tensor([-3.0, -2.0, -5.0]), groups)[[0, 2]].tolist() == [0.0, 0.0]


def test_float32_scores_are_taken_to_float64_before_any_sum() -> None:
    big = torch.tensor([1e8, 1e8 + 8, 1e8 + 16], dtype=torch.float32)
    assert dr_grpo(big, torch.zeros(3, dtype=torch.int64)).tolist() == [-8.0, 0.0, 8.0]


def test_remax_subtracts_the_greedy_score_for_any_shape_coincidence() -> None:
    scores, greedy = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.5, 4.0])
    assert remax(scores, greedy).tolist() == [0.5, 1.5, -1.0]
    with pytest.raises(ValueError, match="greedy baseline of trajectory 1 is nan"):
        remax(scores, torch.tensor([0.5, float("nan"), 4.0]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_refused_by_index(value: float) -> None:
    scores = SCORES.clone()
    scores[4] = value
    for function in (dr_grpo, grpo, rloo, grpo_passk):
        with pytest.raises(ValueError, match=r"reward of trajectory 4 is -?(nan|inf) \(1 of 6"):
            function(scores, GROUPS)


def test_groups_with_a_gap_are_refused() -> None:
    with pytest.raises(ValueError, match="without gaps"):
        group_stats(torch.tensor([1.0, 2.0]), torch.tensor([0, 2]))
