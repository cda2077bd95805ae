"""Entropy and the critic's loss."""

from __future__ import annotations

import math

import pytest
import torch

from algorithms.auxiliary import entropy_bonus, token_entropy, value_loss

NAN = float("nan")


def test_entropy_by_hand_and_with_forbidden_tokens() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -math.inf, -math.inf]], dtype=torch.float64)
    logits.requires_grad_()
    got = token_entropy(logits)
    assert got.tolist() == pytest.approx([math.log(4), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))], rel=1e-12)
    got.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_entropy_bonus_lowers_the_loss_on_trained_tokens_only() -> None:
    got = entropy_bonus(torch.tensor([[2.0, NAN]]), torch.tensor([[1, 0]]), 0.1)
    assert got[0].tolist() == pytest.approx([-0.2, 0.0])


def test_value_loss_by_hand() -> None:
    values = torch.tensor([[1.0, 3.0, 2.0, NAN]], requires_grad=True)
    old = torch.tensor([[1.0, 1.0, 1.8, NAN]])
    returns = torch.tensor([[2.0, 4.0, 1.0, NAN]])
    mask = torch.tensor([[1, 1, 1, 0]])
    plain = value_loss(values, old, returns, mask)
    assert plain.per_token[0].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.0])
    clipped = value_loss(values, old, returns, mask, clip=0.5)
    # the second value is held at 1.5, which is 2.5 from its return; the third is within the clip
    assert clipped.per_token[0].tolist() == pytest.approx([0.5, 0.5 * 6.25, 0.5, 0.0])
    assert (int(clipped.tokens), float(clipped.clipped), float(clipped.value)) == (3, 1.0, 6.0)
    clipped.per_token.sum().backward()
    assert values.grad is not None
    assert values.grad[0].tolist() == pytest.approx([-1.0, 0.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="must be > 0"):
        value_loss(values, old, returns, mask, clip=0.0)
