"""Importance weights for what the sampler and the learner believe differently of the same tokens.

    ratio = exp(proximal - behaviour)         the learner's log-probabilities before the update, the sampler's own

Multiply the policy loss per token by these weights; they carry no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from algorithms.reductions import masked_sum, zero_unmasked

Level = Literal["token", "sequence"]
Mode = Literal["truncate", "mask"]
LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True, slots=True)
class MismatchOptions:
    """level: one ratio per token, or the product over a row for all of its tokens. mode "truncate": min(ratio, limit);
    "mask": the ratio, and 0 where it lies outside [1 / limit, limit].

    >>> MismatchOptions(limit=4.0).mode
    'truncate'
    """

    level: Level = "token"
    limit: float = 2.0
    mode: Mode = "truncate"

    def __post_init__(self) -> None:
        if not 1 <= self.limit < float("inf"):
            raise ValueError(f"mismatch limit must be finite and at least 1 (agreement), got {self.limit}")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Weights [B, T], 0 outside the mask, and sums over trained tokens: their number, how many the limit changed, the
    absolute difference of the log-probabilities; and the largest such difference.

    >>> x = torch.tensor([[-1.0, -2.0]])
    >>> importance_weights(x, x, torch.tensor([[1, 0]]), MismatchOptions()).weights.tolist()
    [[1.0, 0.0]]
    """

    weights: Tensor
    tokens: Tensor
    limited: Tensor
    gap: Tensor
    largest_gap: Tensor


@torch.no_grad()
def importance_weights(proximal: Tensor, behaviour: Tensor, mask: Tensor, options: MismatchOptions) -> Mismatch:
    """Truncated importance sampling (F. Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", 2025), or its masked variant (IcePop, arXiv 2510.18855), at the level of tokens or sequences."""
    difference = zero_unmasked(proximal, mask) - zero_unmasked(behaviour, mask)
    log_ratio = difference
    if options.level == "sequence":
        log_ratio = difference.sum(-1, keepdim=True).expand_as(difference)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    if options.mode == "truncate":
        limited = ratio > options.limit
        weights = ratio.clamp(max=options.limit)
    else:
        limited = (ratio > options.limit) | (ratio < 1 / options.limit)
        weights = ratio.masked_fill(limited, 0.0)
    gap = difference.abs()
    return Mismatch(
        weights=zero_unmasked(weights, mask),
        tokens=mask.bool().sum(),
        limited=masked_sum(limited.to(ratio.dtype), mask),
        gap=gap.sum(),
        largest_gap=gap.max() if gap.numel() else gap.sum(),
    )
