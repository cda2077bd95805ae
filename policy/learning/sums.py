"""The numbers that the policy's loss is watched by, named once.

forward pass -> LossSums[Tensor] --packed, added over micro-batches and ranks--> LossSums[float] of a step
                                                                                   |
UpdateReport.means: Measures[float | None], None where nothing was measured <------'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measures(Generic[T]):
    """What is measured, as sums over trained tokens or as means of them; the two losses are shares of a step's loss.

    kl: policy to reference, by the configured estimator. ratio: current policy to the proximal one. clip_*: tokens held
    by each bound of the loss. mismatch: |sampler - learner| of the log-probabilities before the update; _ratio: learner
    to sampler; _kl: of the sampler from the learner, by k3; _limited: tokens whose weight was cut.
    """

    loss: T
    policy_loss: T
    kl: T
    entropy: T
    ratio: T
    clip_high: T
    clip_low: T
    clip_dual: T
    mismatch: T
    mismatch_ratio: T
    mismatch_kl: T
    mismatch_limited: T


@dataclass(frozen=True, slots=True)
class LossSums(Measures[T], Generic[T]):
    """Sums that add over micro-batches and ranks: `tokens` trained, of which `kl_tokens` had a reference.

    >>> len(SUMS)
    14
    """

    tokens: T
    kl_tokens: T


SUMS: Sequence[str] = tuple(field.name for field in fields(LossSums))  # the order in which sums are packed


def packed(sums: LossSums[Tensor]) -> Tensor:
    """One float64 tensor [len(SUMS)] without a gradient, so that one call adds up all sums of all ranks."""
    return torch.stack([getattr(sums, name).detach().double() for name in SUMS])
