"""What an update did: sums of each optimiser step, and the report over all of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import torch.distributed as dist
from torch import Tensor

from policy.learning.objective import SUMS
from policy.state.sharding import sum_over_ranks


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update did, over all ranks. Losses are means over its optimiser steps, the others over trained tokens.

    kl: to the reference, by the configured estimator; 0 without one. ratio: current to proximal. clip_*: share of
    tokens held by each bound. mismatch: |sampler - learner| of the log-probabilities before the update; _ratio: learner
    to sampler; _kl: of the sampler from the learner, by k3; _limited: share of tokens whose weight was cut. grad_norm:
    before clipping. Skipped steps count in `skipped` alone.
    """

    loss: float
    policy_loss: float
    kl: float
    entropy: float
    ratio: float
    clip_high: float
    clip_low: float
    clip_dual: float
    mismatch: float
    mismatch_max: float
    mismatch_ratio: float
    mismatch_kl: float
    mismatch_limited: float
    grad_norm: float
    lr: float
    trained_tokens: int
    optimiser_steps: int
    skipped: int
    skipped_over: int

    def numbers(self) -> dict[str, float]:
        """Every field by name, for a log."""
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimiser step measured: SUMS over all ranks, the largest mismatch, the gradient's norm."""

    sums: dict[str, float]
    largest_mismatch: float
    grad_norm: float
    over: str | None = None  # the limit that it exceeds

    @property
    def taken(self) -> bool:
        """Whether the step may be taken: the same answer on every rank, as all numbers are over all of them."""
        return math.isfinite(self.sums["loss"]) and math.isfinite(self.grad_norm) and self.over is None

    def held_to(self, limits: Limits) -> StepReport:
        """The same, with the limit that it exceeds. A mean that is not finite exceeds it too."""
        tokens = max(1.0, self.sums["tokens"])
        for name, limit in (("kl", limits.kl), ("ratio", limits.ratio)):
            value = self.sums[name] / tokens
            if limit is not None and not value <= limit:
                return replace(self, over=f"mean {name} {value:.4g} above learner.max_{name}={limit:g}")
        return self


@dataclass(frozen=True, slots=True)
class Limits:
    """Means over trained tokens beyond which a step is not taken; None: no limit.

    >>> Limits(kl=1.0).ratio is None
    True
    """

    kl: float | None = None
    ratio: float | None = None


def reduce_step(sums: Tensor, largest: Tensor, norm: float) -> StepReport:
    """Adds the sums of all ranks up and takes the largest mismatch of any; the norm is that of the whole gradient."""
    if dist.is_initialized():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return StepReport(sum_over_ranks(SUMS, sums), float(largest), norm)


def summarise(steps: list[StepReport], lr: float) -> UpdateReport:
    """The report over the optimiser steps of one update; `lr` is that of the last."""
    taken = [step for step in steps if step.taken]
    total = {name: sum(step.sums[name] for step in taken) for name in SUMS}
    n_steps, n_tokens = max(1, len(taken)), max(1.0, total["tokens"])
    return UpdateReport(
        loss=total["loss"] / n_steps,
        policy_loss=total["policy_loss"] / n_steps,
        kl=total["kl"] / n_tokens,
        entropy=total["entropy"] / n_tokens,
        ratio=total["ratio"] / n_tokens,
        clip_high=total["clip_high"] / n_tokens,
        clip_low=total["clip_low"] / n_tokens,
        clip_dual=total["clip_dual"] / n_tokens,
        mismatch=total["mismatch"] / n_tokens,
        mismatch_max=max((step.largest_mismatch for step in taken), default=0.0),
        mismatch_ratio=total["mismatch_ratio"] / n_tokens,
        mismatch_kl=total["mismatch_kl"] / n_tokens,
        mismatch_limited=total["mismatch_limited"] / n_tokens,
        grad_norm=sum(step.grad_norm for step in taken) / n_steps,
        lr=lr,
        trained_tokens=int(total["tokens"]),
        optimiser_steps=len(taken),
        skipped=len(steps) - len(taken),
        skipped_over=sum(step.over is not None for step in steps),
    )
