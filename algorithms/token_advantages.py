"""Advantages of single tokens: discounted returns, REINFORCE++, and generalised advantage estimation for a critic.

All [B, T] with the mask of trained tokens. Only trained tokens are steps of the decision process: between a turn's last
token and the next turn's first stand observation tokens, which carry no reward, value, discount or trace.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms.advantages import dr_grpo, require_finite
from algorithms.reductions import masked_mean, masked_var, zero_unmasked

WHITEN_EPS = 1e-8  # added to the variance, as published


def token_rewards(scores: Tensor, mask: Tensor, penalty: Tensor | None = None) -> Tensor:
    """Each row's score on its last trained token, minus `penalty` [B, T] (such as coefficient * KL) on every one.

    A score of a row without trained tokens has nowhere to stand and is dropped. float64 [B, T].

    >>> token_rewards(torch.tensor([5.0]), torch.tensor([[1, 0, 1, 0]])).tolist()
    [[0.0, 0.0, 5.0, 0.0]]
    """
    trained = mask.bool()
    last = trained & (trained.flip(-1).cumsum(-1).flip(-1) == 1)
    rewards = last * require_finite(scores).unsqueeze(-1)
    return rewards if penalty is None else rewards - zero_unmasked(penalty.to(torch.float64), mask)


def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Reward of each trained token plus gamma times the return of the next trained token; 0 elsewhere."""
    rewards, trained = zero_unmasked(rewards, mask), mask.bool()
    running = rewards.new_zeros(rewards.shape[0])
    returns = torch.zeros_like(rewards)
    for t in range(rewards.shape[1] - 1, -1, -1):
        running = torch.where(trained[:, t], rewards[:, t] + gamma * running, running)
        returns[:, t] = running
    return zero_unmasked(returns, mask)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """(Value - mean) / sqrt(sample variance + 1e-8) over all trained tokens of the batch; 0 elsewhere.

    Call it on the whole batch: whitening parts by themselves gives another result.
    """
    centred = values - masked_mean(values, mask)
    return zero_unmasked(centred * (masked_var(values, mask) + WHITEN_EPS).rsqrt(), mask)


def reinforce_plus_plus(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Whitened discounted returns of `token_rewards`; needs no groups (REINFORCE++, arXiv 2501.03262)."""
    return whiten(discounted_returns(rewards, mask, gamma), mask)


def reinforce_plus_plus_baseline(scores: Tensor, groups: Tensor, mask: Tensor) -> Tensor:
    """Score minus its group's mean, on every trained token, then whitened over the batch (arXiv 2501.03262)."""
    return whiten(dr_grpo(scores, groups).unsqueeze(-1).expand(mask.shape), mask)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 1.0) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438) over the trained tokens of each row.

    values: the critic's, before the update. Returns (advantages, returns), both 0 outside the mask and not whitened:
    returns = advantages + values are what the critic learns, `whiten(advantages)` is what the policy does.
    """
    rewards, values, trained = zero_unmasked(rewards, mask), zero_unmasked(values, mask), mask.bool()
    next_value = torch.zeros_like(values[:, 0])
    trace = torch.zeros_like(next_value)
    advantages = torch.zeros_like(values)
    for t in range(values.shape[1] - 1, -1, -1):
        error = rewards[:, t] + gamma * next_value - values[:, t]
        trace = torch.where(trained[:, t], error + gamma * lam * trace, trace)
        next_value = torch.where(trained[:, t], values[:, t], next_value)
        advantages[:, t] = trace
    advantages = zero_unmasked(advantages, mask)
    return advantages, advantages + values
