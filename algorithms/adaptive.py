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
from typing import Literal

import torch
from torch import Tensor

from algorithms.advantages import group_stats, require_finite

Statistic = Literal["variance", "std", "range", "entropy"]
Mapping = Literal["sqrt", "linear", "power", "log"]
Baseline = Literal["moving_average", "batch"]


@dataclass(frozen=True, slots=True)
class AdaptiveOptions:
    """How a group's spread becomes a weight. `initial` None starts G from the first batch that has any spread.

    `baseline` "batch" takes this batch's mean + eps in place of G. `power` is read by the mapping of that name alone,
    `log_alpha` by "log", `entropy_bins` by the statistic "entropy".

    >>> AdaptiveOptions(clip_max=5.0).mapping
    'sqrt'
    """

    statistic: Statistic = "variance"
    mapping: Mapping = "sqrt"
    baseline: Baseline = "moving_average"
    momentum: float = 0.95
    eps: float = 1e-6
    clip_min: float = 0.3
    clip_max: float = 3.0
    normalize: bool = False
    initial: float | None = None
    power: float = 0.5
    log_alpha: float = 1.0
    entropy_bins: int = 5

    def __post_init__(self) -> None:
        rules = {
            f"momentum must lie in [0, 1], got {self.momentum}": 0 <= self.momentum <= 1,
            f"eps must be > 0, got {self.eps}": self.eps > 0,
            f"clip range must satisfy 0 <= clip_min <= clip_max, got [{self.clip_min}, {self.clip_max}]": 0
            <= self.clip_min
            <= self.clip_max,
            f"initial must be > 0 or None, got {self.initial}": self.initial is None or self.initial > 0,
            f"power must be > 0, got {self.power}": self.power > 0,
            f"log_alpha must be > 0, got {self.log_alpha}": self.log_alpha > 0,
            f"entropy_bins must be >= 2, got {self.entropy_bins}": self.entropy_bins >= 2,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError("adaptive weighting: " + "; ".join(broken))

    def start(self) -> AdaptiveState:
        """The state before the first batch; `weights` begins with it where it is given a state without G."""
        return AdaptiveState(self.initial)


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

    >>> w, after, mean = weights(torch.tensor([0.0, 2.0]), torch.tensor([0, 0]), AdaptiveState(4.0), AdaptiveOptions())
    >>> w.tolist(), round(after.g, 3), mean
    ([0.5, 0.5], 3.85, 1.0)
    """
    spread = group_statistic(scores, groups, options)
    if not spread.numel():
        return scores.to(torch.float64), state, 0.0
    mean = float(spread.mean())
    state = options.start() if state.g is None else state
    g = state.g if state.g is not None else max(options.eps, mean)
    if not isfinite(g):
        raise ValueError(f"adaptive state G is {g}: the checkpoint is damaged, restart G with AdaptiveOptions.start()")
    baseline = mean + options.eps if options.baseline == "batch" else max(options.eps, g)
    weight = _mapped(spread / baseline, options).clamp(options.clip_min, options.clip_max)[groups]
    if options.normalize:
        weight = weight / (weight.mean() + options.eps)
    if state.g is None and mean <= options.eps:
        return weight, state, mean  # G = eps would push every weight of the next steps to clip_max
    after = max(options.eps, options.momentum * max(options.eps, g) + (1 - options.momentum) * mean)
    return weight, AdaptiveState(after), mean
