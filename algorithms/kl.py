"""Estimates of KL(policy || reference) per token, and the controllers of its coefficient.

With d = log pi - log ref on a token sampled from pi (J. Schulman, "Approximating KL divergence", 2020):

    k1 = d        abs = |d|        k2 = d^2 / 2        k3 = exp(-d) - 1 + d        full = sum over the vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

K3_LOG_RATIO_LIMIT = 20.0  # d is clamped to this range before exp, as published
K3_LIMIT = 10.0  # k3 is clamped to at most this, as published; it is never negative


def k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """log pi - log ref: unbiased, may be negative. As a loss its expected gradient is 0: use it in the reward only."""
    return logprobs - reference


def absolute(logprobs: Tensor, reference: Tensor) -> Tensor:
    """|log pi - log ref|."""
    return (logprobs - reference).abs()


def k2(logprobs: Tensor, reference: Tensor) -> Tensor:
    """(log pi - log ref)^2 / 2: biased as a value; as a loss, its expected gradient is that of the KL."""
    return 0.5 * (logprobs - reference).square()


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """exp(-d) - 1 + d: unbiased, never negative, low variance. As published |d| is clamped to 20, then k3 to 10; beyond
    either the gradient is 0. As a loss its expected gradient is that of KL(reference || policy).

    >>> import torch
    >>> round(k3(torch.tensor(-1.0), torch.tensor(-2.0)).item(), 4)
    0.3679
    """
    log_ratio = (reference - logprobs).clamp(-K3_LOG_RATIO_LIMIT, K3_LOG_RATIO_LIMIT)
    return (log_ratio.exp() - log_ratio - 1).clamp(max=K3_LIMIT)


def full(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Exact KL from whole distributions: log-probabilities [B, T, V] of both, summed over V -> [B, T].

    A token the policy cannot sample (-inf) adds nothing.
    """
    possible = logprobs != float("-inf")
    policy, other = logprobs.masked_fill(~possible, 0.0), reference.masked_fill(~possible, 0.0)
    return (policy.exp() * (policy - other)).masked_fill(~possible, 0.0).sum(-1)


KL_ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"k1": k1, "abs": absolute, "k2": k2, "k3": k3, "full": full}
)


class KLController(Protocol):
    """Holds the coefficient; `update` returns the next step's controller. `coef` is what a checkpoint keeps."""

    @property
    def coef(self) -> float: ...

    def update(self, kl: float, n_steps: int) -> KLController:
        """kl: this step's mean KL per token. n_steps: the time that passed, in the horizon's unit (sequences)."""
        ...


@dataclass(frozen=True, slots=True)
class FixedKL:
    """A constant coefficient.

    >>> FixedKL(0.01).update(kl=3.0, n_steps=64).coef
    0.01
    """

    coef: float

    def update(self, kl: float, n_steps: int) -> FixedKL:
        _require_finite(kl)
        return self


@dataclass(frozen=True, slots=True)
class AdaptiveKL:
    """Raises the coefficient while the KL is above target and lowers it below (arXiv 1909.08593, section 2.2).

    coef <- coef * (1 + clip(kl / target - 1, -0.2, 0.2) * n_steps / horizon)

    >>> round(AdaptiveKL(coef=0.05, target=0.1, horizon=1000).update(kl=0.3, n_steps=100).coef, 6)
    0.051
    """

    coef: float
    target: float
    horizon: float

    def __post_init__(self) -> None:
        if not (self.coef > 0 and self.target > 0 and self.horizon > 0):
            raise ValueError(
                f"adaptive KL needs coef, target and horizon > 0, got {self.coef}, {self.target}, {self.horizon}: "
                "a coefficient of 0 could never grow"
            )

    def update(self, kl: float, n_steps: int) -> AdaptiveKL:
        _require_finite(kl)
        if not 0 < 0.2 * n_steps < self.horizon:
            raise ValueError(
                f"{n_steps} sequences per step against a horizon of {self.horizon}: the coefficient could become "
                "negative; set the horizon above a fifth of the batch"
            )
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return replace(self, coef=self.coef * (1 + error * n_steps / self.horizon))


def _require_finite(kl: float) -> None:
    if not isfinite(kl):
        raise ValueError(f"the measured KL is {kl}: a step that is not finite must not steer the coefficient")
