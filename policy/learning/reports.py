"""What an update did: sums of each optimiser step, and the report over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import torch.distributed as dist
from torch import Tensor

from policy.learning.sums import SUMS, LossSums, Measures
from policy.state.sharding import sum_over_ranks


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update did, over all ranks.

    `means` are of the steps that were taken: losses per optimiser step, the rest per trained token. Its `kl` counts
    steps over a limit too, if they are finite: how far the policy has gone is known of them. What was not measured is
    None: everything where no step was taken, the KL without a reference. grad_norm: before clipping.
    """

    means: Measures[float | None]
    mismatch_max: float | None
    grad_norm: float | None
    lr: float
    trained_tokens: int
    optimiser_steps: int
    skipped: int
    skipped_over: int

    def numbers(self) -> dict[str, float | None]:
        """Every field by name, for a log."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "means"}
        return {name: None if value is None else float(value) for name, value in (asdict(self.means) | own).items()}


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimiser step measured: sums over all ranks, the largest mismatch, the gradient's norm."""

    sums: LossSums[float]
    largest_mismatch: float
    grad_norm: float
    over: str | None = None  # the limit that it exceeds

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are."""
        return math.isfinite(self.sums.loss) and math.isfinite(self.grad_norm)

    @property
    def taken(self) -> bool:
        """Whether the step may be taken: the same answer on every rank, as all numbers are over all of them."""
        return self.finite and self.over is None

    def held_to(self, limits: StepLimits) -> StepReport:
        """The same, with the limit that it exceeds. A mean that is not finite exceeds it too."""
        means = {"kl": _mean(self.sums.kl, self.sums.kl_tokens), "ratio": _mean(self.sums.ratio, self.sums.tokens)}
        for name, limit in (("kl", limits.kl), ("ratio", limits.ratio)):
            value = means[name]
            if limit is not None and value is not None and not value <= limit:
                return replace(self, over=f"mean {name} {value:.4g} above learner.max_{name}={limit:g}")
        return self


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Means over trained tokens beyond which an optimiser step is not taken; None: no limit.

    >>> StepLimits(kl=1.0).ratio is None
    True
    """

    kl: float | None = None
    ratio: float | None = None


def reduce_step(sums: Tensor, largest: Tensor, norm: float) -> StepReport:
    """Adds the packed sums of all ranks up and takes the largest mismatch of any; the norm is of the whole gradient."""
    if dist.is_initialized():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return StepReport(LossSums(**sum_over_ranks(SUMS, sums)), float(largest), norm)


def summarise(steps: Sequence[StepReport], lr: float) -> UpdateReport:
    """The report over the optimiser steps of one update; `lr` is that of the last."""
    taken = [step for step in steps if step.taken]
    tokens = sum(step.sums.tokens for step in taken)
    per_token = {
        field.name: _mean(sum(getattr(step.sums, field.name) for step in taken), tokens) for field in fields(Measures)
    }
    per_step = {name: _mean(sum(getattr(step.sums, name) for step in taken), len(taken)) for name in LOSSES}
    measured = [step.sums for step in steps if step.finite and math.isfinite(step.sums.kl)]
    kl = _mean(sum(sums.kl for sums in measured), sum(sums.kl_tokens for sums in measured))
    return UpdateReport(
        means=Measures(**(per_token | per_step | {"kl": kl})),
        mismatch_max=max((step.largest_mismatch for step in taken), default=None),
        grad_norm=_mean(sum(step.grad_norm for step in taken), len(taken)),
        lr=lr,
        trained_tokens=int(tokens),
        optimiser_steps=len(taken),
        skipped=len(steps) - len(taken),
        skipped_over=sum(step.over is not None for step in steps),
    )


LOSSES: Sequence[str] = ("loss", "policy_loss")  # means over optimiser steps


def _mean(total: float, count: float) -> float | None:
    """None where nothing was counted: a mean of nothing is no number, and 0 would be read as one."""
    return total / count if count else None
