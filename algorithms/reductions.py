"""Masked sums, and the average of a loss that no split into ranks and micro-batches can change.

    loss of a micro-batch = sum(per_token * token_weights) / denominator

`token_weights` looks at a row alone and `denominator` is counted once for the whole optimiser step, so the sum of these
losses over any partition of the rows, and therefore its gradient, is always the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Literal

import torch
from torch import Tensor

Denominator = Literal["token", "sequence", "constant"]


def zero_unmasked(x: Tensor, mask: Tensor) -> Tensor:
    """`x` where the mask is set, else 0. What stood there, NaN included, reaches neither the result nor a gradient."""
    return torch.where(mask.bool(), x, torch.zeros((), dtype=x.dtype, device=x.device))


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of the masked entries, over `dim` or over everything."""
    kept = zero_unmasked(x, mask)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the masked entries, over `dim` or over everything; 0 where the mask is empty."""
    count = mask.bool().sum() if dim is None else mask.bool().sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1).to(x.dtype)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Sample variance (n - 1) of all masked entries; 0 with fewer than two."""
    squares = (x - masked_mean(x, mask)).square()
    return masked_sum(squares, mask) / (mask.bool().sum() - 1).clamp(min=1).to(x.dtype)


def group_index(ids: Iterable[Hashable]) -> Tensor:
    """Numbers the groups 0, 1, ... in the order they first appear; int64 [B].

    >>> group_index(["t7", "t7", "t2", "t7"]).tolist()
    [0, 0, 1, 0]
    """
    seen: dict[Hashable, int] = {}
    return torch.tensor([seen.setdefault(name, len(seen)) for name in ids], dtype=torch.int64)


def count_denominator(kind: Denominator, trained: Tensor, constant: float | None = None) -> float:
    """What the loss of one optimiser step is divided by, from the trained tokens of all its rows [B], on every rank.

    "token": trained tokens. "sequence": rows with a trained token. "constant": `constant` itself (Dr. GRPO, arXiv
    2503.20783: rows times the longest reply allowed). Never 0: an empty batch counts as 1.

    >>> count_denominator("token", torch.tensor([2, 1, 0]))
    3.0
    """
    if kind == "token":
        return max(1.0, float(trained.sum()))
    if kind == "sequence":
        return max(1.0, float((trained > 0).sum()))
    if constant is None or not 0 < constant < float("inf"):
        raise ValueError(f"denominator 'constant' needs a finite constant > 0, got {constant}")
    return float(constant)


def token_weights(kind: Denominator, mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weight of each token in the sum: 1, or 1 / its row's trained tokens for "sequence"; 0 outside the mask. [B, T].

    >>> token_weights("sequence", torch.tensor([[1, 1, 0], [0, 1, 0]])).tolist()
    [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]
    """
    ones = mask.bool().to(dtype)
    return ones / ones.sum(-1, keepdim=True).clamp(min=1) if kind == "sequence" else ones


def aggregate(per_token: Tensor, weights: Tensor, denominator: float) -> Tensor:
    """`sum(per_token * weights) / denominator`: this micro-batch's share of the step's loss. Tokens of weight 0 are
    not read. Under a framework that averages gradients over ranks, multiply by the number of ranks."""
    return (zero_unmasked(per_token, weights != 0) * weights).sum() / denominator
