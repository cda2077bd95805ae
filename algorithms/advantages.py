"""Advantages of whole sequences, from their scores and the scores of their group.

Scores are float64 [B]; `groups` is int64 [B], 0 <= group < G (see `reductions.group_index`); the result is float64 [B].
A group of one, or one whose scores are all equal, teaches nothing and gets exactly 0 (ReMax aside, whose baseline comes
from outside the group).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STD_EPS = 1e-6  # added to a group's standard deviation, as published


@dataclass(frozen=True, slots=True)
class GroupStats:
    """Count, mean, sample variance (n - 1), smallest and largest score of every group; each [G].

    >>> group_stats(torch.tensor([1.0, 3.0, 5.0]).double(), torch.tensor([0, 0, 1])).variance.tolist()
    [2.0, 0.0]
    """

    count: Tensor
    mean: Tensor
    variance: Tensor
    low: Tensor
    high: Tensor


def require_finite(scores: Tensor, what: str = "reward") -> Tensor:
    """The scores as float64; raises ValueError naming the first trajectory whose score is NaN or infinite."""
    bad = (~torch.isfinite(scores)).nonzero().flatten()
    if bad.numel():
        first = int(bad[0])
        raise ValueError(
            f"{what} of trajectory {first} is {float(scores[first])} ({bad.numel()} of {scores.numel()} not finite); "
            "what cannot be computed must be raised where it is computed"
        )
    return scores.to(torch.float64)


def group_stats(scores: Tensor, groups: Tensor) -> GroupStats:
    """Statistics of each group. Raises ValueError for a score that is not finite or a gap in the group numbers."""
    scores = require_finite(scores)
    size = int(groups.max()) + 1 if groups.numel() else 0
    zeros = scores.new_zeros(size)
    count = zeros.index_add(0, groups, torch.ones_like(scores))
    if bool((count == 0).any()):
        raise ValueError("groups must be numbered 0, 1, ... without gaps; number them with reductions.group_index")
    mean = zeros.index_add(0, groups, scores) / count
    squares = zeros.index_add(0, groups, (scores - mean[groups]).square())
    low = zeros.scatter_reduce(0, groups, scores, "amin", include_self=False)
    high = zeros.scatter_reduce(0, groups, scores, "amax", include_self=False)
    # Rounding in the mean would leave equal scores with a spread of 1e-17: equal means equal.
    squares = torch.where(high == low, zeros, squares)
    return GroupStats(count, mean, squares / (count - 1).clamp(min=1), low, high)


def _centred(scores: Tensor, groups: Tensor, stats: GroupStats) -> Tensor:
    flat = (stats.high == stats.low)[groups]
    return torch.where(flat, torch.zeros_like(scores), scores - stats.mean[groups])


def dr_grpo(scores: Tensor, groups: Tensor) -> Tensor:
    """Score minus the group's mean (Dr. GRPO, arXiv 2503.20783).

    >>> dr_grpo(torch.tensor([1.0, 3.0, 7.0]), torch.tensor([0, 0, 1])).tolist()
    [-1.0, 1.0, 0.0]
    """
    scores = require_finite(scores)
    return _centred(scores, groups, group_stats(scores, groups))


def grpo(scores: Tensor, groups: Tensor) -> Tensor:
    """(Score - group mean) / (group's sample standard deviation + 1e-6) (GRPO, arXiv 2402.03300)."""
    scores = require_finite(scores)
    stats = group_stats(scores, groups)
    return _centred(scores, groups, stats) / (stats.variance.sqrt() + STD_EPS)[groups]


def grpo_passk(scores: Tensor, groups: Tensor) -> Tensor:
    """Only a group's best sequence is rewarded: (best - second best) / (std + 1e-6), the others 0 (arXiv 2503.19595).

    Two that share the best score give 0, as does a group of one.
    """
    scores = require_finite(scores)
    stats = group_stats(scores, groups)
    best = torch.zeros_like(stats.mean, dtype=torch.int64)
    is_best = scores == stats.high[groups]
    rows = torch.arange(scores.numel(), device=scores.device)
    best = best.scatter_reduce(0, groups[is_best], rows[is_best], "amin", include_self=False)
    others = rows != best[groups]
    second = stats.high.scatter_reduce(0, groups[others], scores[others], "amax", include_self=False)
    gain = (stats.high - second) / (stats.variance.sqrt() + STD_EPS)
    return torch.where(others, torch.zeros_like(scores), gain[groups])


def rloo(scores: Tensor, groups: Tensor) -> Tensor:
    """Score minus the mean of the group's other scores (RLOO, arXiv 2402.14740).

    >>> rloo(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, 0])).tolist()
    [-3.0, -1.5, 4.5]
    """
    scores = require_finite(scores)
    stats = group_stats(scores, groups)
    # s - (sum - s) / (n - 1) = (s - mean) * n / (n - 1)
    return _centred(scores, groups, stats) * (stats.count / (stats.count - 1).clamp(min=1))[groups]


def remax(scores: Tensor, greedy_scores: Tensor) -> Tensor:
    """Score minus the score [B] of the same task's greedy reply (ReMax, arXiv 2310.10505)."""
    return require_finite(scores) - require_finite(greedy_scores, "greedy baseline")
