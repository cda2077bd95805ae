"""Losses beside the policy's own: the entropy bonus and the critic's value loss. All per token, [B, T]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.reductions import masked_sum, zero_unmasked


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each position: logits [..., V] -> [...]. Forbidden tokens (-inf) add nothing."""
    logprobs = logits.log_softmax(-1)
    possible = logprobs != float("-inf")
    kept = logprobs.masked_fill(~possible, 0.0)
    return -(kept.exp() * kept).masked_fill(~possible, 0.0).sum(-1)


def entropy_bonus(entropy: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """-coefficient * entropy on trained tokens: added to the loss, it keeps the policy from collapsing."""
    return zero_unmasked(-coefficient * entropy, mask)


@dataclass(frozen=True, slots=True)
class ValueLoss:
    """Loss of each token [B, T], 0 outside the mask, and sums over trained tokens to log.

    >>> one = torch.ones(1, 1)
    >>> value_loss(one, one, one * 3, one).per_token.tolist()
    [[2.0]]
    """

    per_token: Tensor
    tokens: Tensor
    clipped: Tensor
    value: Tensor


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None = None
) -> ValueLoss:
    """Half the squared error; with `clip`, the worse of it and that of the value held within clip of the old one.

    old_values: the critic's before the update. As in PPO's reference code (arXiv 2005.12729, section 3).
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"the value clip must be > 0 or None, got {clip}")
    values, old_values, returns = (zero_unmasked(x, mask) for x in (values, old_values, returns))
    error = (values - returns).square()
    worse = error
    if clip is not None:
        held = torch.maximum(torch.minimum(values, old_values + clip), old_values - clip)
        worse = torch.maximum(error, (held - returns).square())
    with torch.no_grad():
        sums = mask.bool().sum(), masked_sum((worse > error).to(values.dtype), mask), values.sum()
    return ValueLoss(zero_unmasked(0.5 * worse, mask), *sums)
