"""Importance weights for what the sampler and the learner believe differently of the same tokens.

    ratio = exp(proximal - behaviour)         the learner's log-probabilities before the update, the sampler's own

Multiply the policy loss per token by these weights; they carry no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from algorithms.reductions import masked_sum, zero_unmasked

Level = Literal["token", "sequence"]
Mode = Literal["truncate", "mask"]
LOG_RATIO_LIMIT = 20.0


class MismatchOptions(Protocol):
    """level: one ratio per token, or the product over a row for all of its tokens. mode "truncate": min(ratio, limit);
    "mask": the ratio, and 0 where it lies outside [low, limit]; `low` None is 1 / limit, and read by "mask" alone.
    """

    @property
    def level(self) -> Level: ...
    @property
    def limit(self) -> float: ...
    @property
    def mode(self) -> Mode: ...
    @property
    def low(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class ImportanceWeights:
    """Weights [B, T], 0 outside the mask, and sums over trained tokens: their number, how many the limit changed, the
    absolute difference of the log-probabilities, the ratio of each token, and k3, which estimates KL(sampler ||
    learner) without a sign; and the largest difference. Ratio and k3 are those of single tokens at every level.
    """

    weights: Tensor
    tokens: Tensor
    limited: Tensor
    gap: Tensor
    ratio: Tensor
    k3: Tensor
    largest_gap: Tensor


@torch.no_grad()
def importance_weights(
    proximal: Tensor, behaviour: Tensor, mask: Tensor, options: MismatchOptions
) -> ImportanceWeights:
    """Truncated importance sampling (F. Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", 2025), or its masked variant (IcePop, arXiv 2510.18855), at the level of tokens or sequences."""
    difference = zero_unmasked(proximal, mask) - zero_unmasked(behaviour, mask)
    token_ratio = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    ratio = token_ratio
    if options.level == "sequence":
        whole = difference.sum(-1, keepdim=True).expand_as(difference)
        ratio = whole.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    if options.mode == "truncate":
        limited = ratio > options.limit
        weights = ratio.clamp(max=options.limit)
    else:
        lower = 1 / options.limit if options.low is None else options.low
        limited = (ratio > options.limit) | (ratio < lower)
        weights = ratio.masked_fill(limited, 0.0)
    gap = difference.abs()
    return ImportanceWeights(
        weights=zero_unmasked(weights, mask),
        tokens=mask.bool().sum(),
        limited=masked_sum(limited.to(ratio.dtype), mask),
        gap=gap.sum(),
        ratio=masked_sum(token_ratio, mask),
        k3=masked_sum(token_ratio - 1 - difference, mask),
        largest_gap=gap.max() if gap.numel() else gap.sum(),
    )
