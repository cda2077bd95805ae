"""Which groups dynamic sampling keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.reductions import group_index
from algorithms.selection import keep_groups, spread


def test_by_hand() -> None:
    values = torch.tensor([0.2, 0.2, 0.1, 0.9, 1.0, 1.0, 0.9, 1.0], dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    assert spread(values, groups).tolist() == pytest.approx([0.0, 0.8, 0.0, 0.1])
    assert keep_groups(values, groups).tolist() == [False, True, False, True]
    assert keep_groups(values, groups, min_spread=0.2).tolist() == [False, True, False, False]
    assert keep_groups(values, groups, high=0.95).tolist() == [False, True, False, False]  # a mean of 0.95 is not below
    assert keep_groups(values, groups, low=0.5).tolist() == [False, False, False, True]  # nor one of 0.5 above


def test_equal_rewards_have_no_spread_although_their_mean_rounds() -> None:
    assert keep_groups(torch.full((3,), 0.1).double(), torch.zeros(3, dtype=torch.int64)).tolist() == [False]


def test_a_value_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="trajectory 1 is nan"):
        keep_groups(torch.tensor([1.0, float("nan")]), torch.tensor([0, 0]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.3, 0.5, 1.0])), min_size=1, max_size=16),
    st.sampled_from([0.0, 0.25, 0.6]),
    st.sampled_from([None, 0.2]),
    st.sampled_from([None, 0.8]),
)
def test_against_a_slow_oracle(
    rows: list[tuple[int, float]], min_spread: float, low: float | None, high: float | None
) -> None:
    names = list(dict.fromkeys(name for name, _ in rows))
    expected = []
    for name in names:
        values = [value for other, value in rows if other == name]
        mean = sum(values) / len(values)
        within = (low is None or mean > low) and (high is None or mean < high)
        expected.append(max(values) - min(values) > min_spread and within)
    values = torch.tensor([value for _, value in rows], dtype=torch.float64)
    assert keep_groups(values, group_index([name for name, _ in rows]), min_spread, low, high).tolist() == expected
