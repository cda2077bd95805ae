"""GAE, discounted returns and REINFORCE++ over trained tokens alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.token_advantages import (
    discounted_returns,
    gae,
    reinforce_plus_plus,
    reinforce_plus_plus_baseline,
    token_rewards,
    whiten,
)

NAN = float("nan")


def test_gae_by_hand_across_an_observation() -> None:
    mask = torch.tensor([[0, 1, 0, 0, 1, 0]])
    values = torch.tensor([[NAN, 2.0, NAN, 7.0, 4.0, NAN]], dtype=torch.float64)
    rewards = token_rewards(torch.tensor([10.0]), mask)
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    # last: 10 - 4 = 6; first: 0 + 0.5 * 4 - 2 = 0, plus 0.25 * 6
    assert advantages.tolist() == [[0.0, 1.5, 0.0, 0.0, 6.0, 0.0]]
    assert returns.tolist() == [[0.0, 3.5, 0.0, 0.0, 10.0, 0.0]]


def slow_gae(
    rewards: list[float], values: list[float], mask: list[bool], gamma: float, lam: float
) -> list[tuple[float, float]]:
    steps = [i for i, m in enumerate(mask) if m]
    out = [(0.0, 0.0)] * len(mask)
    for k, i in enumerate(steps):
        total = 0.0
        for power, (j, after) in enumerate(zip(steps[k:], [*steps[k + 1 :], None], strict=True)):
            next_value = values[after] if after is not None else 0.0
            total += (gamma * lam) ** power * (rewards[j] + gamma * next_value - values[j])
        out[i] = (total, total + values[i])
    return out


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.booleans()), min_size=6, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.floats(0.1, 1),
    st.floats(0, 1),
)
def test_gae_against_its_definition(batch: list[list[tuple[float, float, bool]]], gamma: float, lam: float) -> None:
    rewards, values, mask = (torch.tensor([[step[k] for step in row] for row in batch]) for k in range(3))
    rewards, values = rewards.double(), values.double()
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for i in range(len(batch)):
        expected = slow_gae(rewards[i].tolist(), values[i].tolist(), mask[i].tolist(), gamma, lam)
        assert advantages[i].tolist() == pytest.approx([a for a, _ in expected], rel=1e-9, abs=1e-9)
        assert returns[i].tolist() == pytest.approx([r for _, r in expected], rel=1e-9, abs=1e-9)


def test_gae_with_lambda_one_learns_the_return_whatever_the_values() -> None:
    mask = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]])
    values = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double()
    rewards = token_rewards(torch.tensor([3.0, -2.0]), mask)
    _, returns = gae(rewards, values, mask)
    assert torch.allclose(returns, discounted_returns(rewards, mask), atol=1e-12)


def test_token_rewards_stand_on_the_last_trained_token_and_penalties_on_all() -> None:
    mask = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    penalty = torch.tensor([[0.1, NAN, 0.2, NAN], [NAN, 0.5, NAN, NAN], [NAN] * 4], dtype=torch.float64)
    got = token_rewards(torch.tensor([4.0, 2.0, 9.0]), mask, penalty)
    assert got.tolist() == [[-0.1, 0.0, 3.8, 0.0], [0.0, 1.5, 0.0, 0.0], [0.0] * 4]
    with pytest.raises(ValueError, match="trajectory 2 is nan"):
        token_rewards(torch.tensor([4.0, 2.0, NAN]), mask)


def test_discount_does_not_count_observation_tokens() -> None:
    mask = torch.tensor([[1, 0, 0, 0, 1]])
    rewards = token_rewards(torch.tensor([8.0]), mask)
    assert discounted_returns(rewards, mask, 0.5).tolist() == [[4.0, 0.0, 0.0, 0.0, 8.0]]


def test_whitening_by_hand_counts_trained_tokens_only() -> None:
    values = torch.tensor([[1.0, NAN, 3.0], [5.0, NAN, NAN]], dtype=torch.float64)
    mask = torch.tensor([[1, 0, 1], [1, 0, 0]])
    assert whiten(values, mask)[mask.bool()].tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-8)
    assert whiten(values, torch.zeros_like(mask)).tolist() == [[0.0] * 3] * 2
    assert whiten(values, torch.tensor([[1, 0, 0], [0, 0, 0]])).tolist() == [[0.0] * 3] * 2


def test_reinforce_plus_plus_weighs_sequences_by_their_trained_tokens() -> None:
    mask = torch.tensor([[1, 1, 1], [0, 1, 0]])
    got = reinforce_plus_plus(token_rewards(torch.tensor([0.0, 4.0]), mask), mask)
    # tokens 0, 0, 0, 4: mean 1, sample variance (3 + 9) / 3 = 4
    assert got.tolist() == [pytest.approx([-0.5] * 3, rel=1e-8), pytest.approx([0.0, 1.5, 0.0], rel=1e-8)]


def test_reinforce_plus_plus_baseline_by_hand() -> None:
    mask = torch.tensor([[1, 0], [1, 1], [0, 1]])
    got = reinforce_plus_plus_baseline(torch.tensor([1.0, 3.0, 50.0]), torch.tensor([0, 0, 1]), mask)
    # tokens -1, 1, 1, 0: mean 0.25, sample variance 2.75 / 3
    std = (2.75 / 3) ** 0.5
    expected = [[-1.25 / std, 0.0], [0.75 / std, 0.75 / std], [0.0, -0.25 / std]]
    assert got.tolist() == [pytest.approx(row, rel=1e-7) for row in expected]
