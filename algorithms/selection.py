"""Which groups teach something: dynamic sampling drops the others (DAPO, arXiv 2503.14476, section 3.2)."""

from __future__ import annotations

from torch import Tensor

from algorithms.advantages import group_stats


def spread(values: Tensor, groups: Tensor) -> Tensor:
    """Largest minus smallest value of every group [G]; 0 for a group of one."""
    stats = group_stats(values, groups)
    return stats.high - stats.low


def keep_groups(
    values: Tensor, groups: Tensor, min_spread: float = 0.0, low: float | None = None, high: float | None = None
) -> Tensor:
    """Whether each group [G] is kept: its spread is above `min_spread` and its mean strictly between `low` and `high`.

    values: float64 [B], such as rewards or one term of them. groups: int64 [B]. Equal values have a spread of exactly
    0. Raises ValueError for a value that is not finite.

    >>> import torch
    >>> keep_groups(torch.tensor([1.0, 1.0, 0.0, 3.0]), torch.tensor([0, 0, 1, 1])).tolist()
    [False, True]
    """
    kept = spread(values, groups) > min_spread
    mean = group_stats(values, groups).mean
    if low is not None:
        kept &= mean > low
    if high is not None:
        kept &= mean < high
    return kept
