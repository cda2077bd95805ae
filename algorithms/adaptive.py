"""Adaptive weights: a group counts for more the more its rewards differ, relative to what is usual.

    s_g = spread of group g's raw rewards        b = max(eps, G)             w_g = clip(mapping(s_g / b))
    G  <- max(eps, m G + (1 - m) mean_g s_g)     after the weights are taken; G is part of the checkpoint

With the default statistic and mapping and inside the clip range, this cancels GRPO's own division by the group's
standard deviation: the result is Dr. GRPO's advantage divided by sqrt(G), up to sqrt((n - 1) / n).
See docs/algorithms.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal, Protocol

import torch
from torch import Tensor

from algorithms.advantages import group_stats, require_finite

Statistic = Literal["variance", "std", "range", "entropy"]
Mapping = Literal["sqrt", "linear", "power", "log"]
Baseline = Literal["moving_average", "batch"]


class AdaptiveOptions(Protocol):
    """How a group's spread becomes a weight: what `weights` reads, and who gives it has checked.

    `baseline` "batch" takes this batch's mean + eps in place of G. `initial` None starts G from the first batch that
    has any spread. `power` is read by the mapping of that name alone, `log_alpha` by "log", `entropy_bins` by the
    statistic "entropy".
    """

    @property
    def statistic(self) -> Statistic: ...
    @property
    def mapping(self) -> Mapping: ...
    @property
    def baseline(self) -> Baseline: ...
    @property
    def momentum(self) -> float: ...
    @property
    def eps(self) -> float: ...
    @property
    def clip_min(self) -> float: ...
    @property
    def clip_max(self) -> float: ...
    @property
    def normalize(self) -> bool: ...
    @property
    def initial(self) -> float | None: ...
    @property
    def power(self) -> float: ...
    @property
    def log_alpha(self) -> float: ...
    @property
    def entropy_bins(self) -> int: ...


@dataclass(frozen=True, slots=True)
class AdaptiveState:
    """The moving average G of the batch mean of the statistic; None until a batch has shown any spread.

    >>> AdaptiveState(2.0).g
    2.0
    """

    g: float | None = None


def group_statistic(scores: Tensor, groups: Tensor, options: AdaptiveOptions) -> Tensor:
    """The spread s_g [G] of each group's raw scores; 0 for a group of one. Raises ValueError if one is not finite."""
    stats = group_stats(scores, groups)
    population = stats.variance * (stats.count - 1) / stats.count
    if options.statistic == "variance":
        spread = population
    elif options.statistic == "std":
        spread = population.sqrt()
    elif options.statistic == "range":
        spread = stats.high - stats.low
    else:
        spread = _histogram_entropy(scores.to(torch.float64), groups, stats.low, stats.high, options)
    return require_finite(spread, f"{options.statistic} of the group")


def _histogram_entropy(scores: Tensor, groups: Tensor, low: Tensor, high: Tensor, options: AdaptiveOptions) -> Tensor:
    """Entropy, in nats, of each group's scores in equal bins over [low, high]; 0 if high - low <= eps."""
    width = high - low
    flat = width <= options.eps
    position = (scores - low[groups]) / torch.where(flat, torch.ones_like(width), width)[groups]
    bins = (position * options.entropy_bins).long().clamp(0, options.entropy_bins - 1)
    counts = scores.new_zeros(low.numel() * options.entropy_bins)
    counts = counts.index_add(0, groups * options.entropy_bins + bins, torch.ones_like(scores))
    shares = counts.view(-1, options.entropy_bins)
    shares = shares / shares.sum(-1, keepdim=True).clamp(min=1)
    entropy = -torch.xlogy(shares, shares).sum(-1)
    return torch.where(flat, torch.zeros_like(entropy), entropy)


def _mapped(ratio: Tensor, options: AdaptiveOptions) -> Tensor:
    if options.mapping == "sqrt":
        return ratio.sqrt()
    if options.mapping == "linear":
        return ratio
    if options.mapping == "power":
        return ratio.pow(options.power)
    return torch.log1p(options.log_alpha * ratio)


def weights(
    scores: Tensor, groups: Tensor, state: AdaptiveState, options: AdaptiveOptions
) -> tuple[Tensor, AdaptiveState, float]:
    """Weight of every trajectory, the state after this batch, and the mean statistic over groups.

    scores: raw rewards [B], before any KL penalty. groups: int64 [B]. Returns float64 [B], equal within a group. Every
    group counts once in the mean, groups of one (s = 0) too. Raises ValueError for a score that is not finite and for
    a statistic that overflows.

    Rewards 0 and 2 of one group have variance 1; with G = 4, sqrt and momentum 0.95 both weigh 0.5, and G becomes 3.85.
    """
    spread = group_statistic(scores, groups, options)
    if not spread.numel():
        return scores.to(torch.float64), state, 0.0
    mean = float(spread.mean())
    state = AdaptiveState(options.initial) if state.g is None else state
    g = state.g if state.g is not None else max(options.eps, mean)
    if not isfinite(g):
        raise ValueError(f"adaptive state G is {g}: the checkpoint is damaged")
    baseline = mean + options.eps if options.baseline == "batch" else max(options.eps, g)
    weight = _mapped(spread / baseline, options).clamp(options.clip_min, options.clip_max)[groups]
    if options.normalize:
        weight = weight / (weight.mean() + options.eps)
    if state.g is None and mean <= options.eps:
        return weight, state, mean  # G = eps would push every weight of the next steps to clip_max
    after = max(options.eps, options.momentum * max(options.eps, g) + (1 - options.momentum) * mean)
    return weight, AdaptiveState(after), mean
