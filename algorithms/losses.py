"""Policy losses per token.

    ratio r = exp(logprobs - proximal)        log-probabilities of the sampled tokens: now, and before the update

Every function takes [B, T] tensors with the mask of trained tokens and returns [B, T], 0 outside the mask;
`reductions.aggregate` turns that into a scalar. What is logged comes back as sums, so that micro-batches and ranks add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import log1p
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from algorithms.reductions import masked_mean, masked_sum, zero_unmasked

LOG_RATIO_LIMIT = 20.0  # |log ratio| is clamped to this before exp: exp(20) is 5e8, beyond it the gradient would be inf


class LossOptions(Protocol):
    """What the policy losses read; None where the loss at hand does not. Who gives them has checked them.

    The ratio is clipped to [1 - clip_low, 1 + clip_high]; `clip_dual` bounds the loss of a negative advantage at
    clip_dual * |A| (None: unbounded). The taus are SAPO's temperatures.
    """

    @property
    def clip_low(self) -> float | None: ...
    @property
    def clip_high(self) -> float | None: ...
    @property
    def clip_dual(self) -> float | None: ...
    @property
    def tau_positive(self) -> float | None: ...
    @property
    def tau_negative(self) -> float | None: ...


def _given(value: float | None, name: str) -> float:
    if value is None:
        raise ValueError(f"this loss reads {name}, and it is None")
    return value


@dataclass(frozen=True, slots=True)
class LossStats:
    """Sums over trained tokens, without gradient; add them over micro-batches and ranks, then take `means`.

    clip_high, clip_low, clip_dual: tokens held by each bound of the loss; 0 for a bound that it does not have.
    k1, k3: estimates of KL(proximal || policy) from the log ratio. ratio: the importance ratio itself.

    >>> two = LossStats(*(torch.tensor(v) for v in (2.0, 1.0, 0.0, 0.0, 0.2, 0.1, 2.1)))
    >>> round((two + two).means()["clip_high"], 3)
    0.5
    """

    tokens: Tensor
    clip_high: Tensor
    clip_low: Tensor
    clip_dual: Tensor
    k1: Tensor
    k3: Tensor
    ratio: Tensor

    def __add__(self, other: LossStats) -> LossStats:
        return LossStats(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def means(self) -> dict[str, float]:
        """Each sum per trained token."""
        count = max(1.0, float(self.tokens))
        return {f.name: float(getattr(self, f.name)) / count for f in fields(self) if f.name != "tokens"}


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Loss of each token [B, T], 0 outside the mask, and the sums to log."""

    per_token: Tensor
    stats: LossStats


def _log_ratio(logprobs: Tensor, proximal: Tensor, mask: Tensor) -> Tensor:
    return zero_unmasked(logprobs, mask) - zero_unmasked(proximal, mask)


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


@dataclass(frozen=True, slots=True)
class _Held:
    """Which tokens each bound holds, [B, T] booleans."""

    high: Tensor
    low: Tensor
    dual: Tensor


def _held_by_surrogate(ratio: Tensor, advantages: Tensor, options: LossOptions) -> _Held:
    """PPO's bounds, each of one sign: what would go on in the direction of its advantage is held, what returns is not.

    The dual clip bounds how much a token of A < 0 can weigh.
    """
    dual = float("inf") if options.clip_dual is None else options.clip_dual
    positive, negative = advantages > 0, advantages < 0
    return _Held(
        high=positive & (ratio > 1 + _given(options.clip_high, "clip_high")),
        low=negative & (ratio < 1 - _given(options.clip_low, "clip_low")),
        dual=negative & (ratio > dual),
    )


def _held_by_weight(ratio: Tensor, advantages: Tensor, options: LossOptions) -> _Held:
    """CISPO's weight: clipped on both sides whatever the sign of A. Where A is 0 it weighs nothing."""
    matters = advantages != 0
    return _Held(
        high=matters & (ratio > 1 + _given(options.clip_high, "clip_high")),
        low=matters & (ratio < 1 - _given(options.clip_low, "clip_low")),
        dual=torch.zeros_like(matters),
    )


def _held_by_none(ratio: Tensor) -> _Held:
    nothing = torch.zeros_like(ratio, dtype=torch.bool)
    return _Held(nothing, nothing, nothing)


def _result(per_token: Tensor, token_log_ratio: Tensor, ratio: Tensor, held: _Held, mask: Tensor) -> PolicyLoss:
    with torch.no_grad():
        d = token_log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        stats = LossStats(
            tokens=mask.bool().sum(),
            clip_high=masked_sum(held.high.to(ratio.dtype), mask),
            clip_low=masked_sum(held.low.to(ratio.dtype), mask),
            clip_dual=masked_sum(held.dual.to(ratio.dtype), mask),
            k1=masked_sum(-d, mask),
            k3=masked_sum(d.exp() - 1 - d, mask),
            ratio=masked_sum(ratio, mask),
        )
    return PolicyLoss(zero_unmasked(per_token, mask), stats)


def _clipped(log_ratio: Tensor, options: LossOptions) -> Tensor:
    """The ratio, held between the clip bounds."""
    low, high = _given(options.clip_low, "clip_low"), _given(options.clip_high, "clip_high")
    return log_ratio.clamp(log1p(-low), log1p(high)).exp()


def _clipped_surrogate(log_ratio: Tensor, advantages: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    ratio = _ratio(log_ratio)
    bounded = log_ratio.clamp(
        log1p(-_given(options.clip_low, "clip_low")), log1p(_given(options.clip_high, "clip_high"))
    ).exp()
    loss = torch.maximum(-advantages * ratio, -advantages * bounded)
    if options.clip_dual is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * options.clip_dual), loss)
    return loss, ratio


def ppo_clip(logprobs: Tensor, proximal: Tensor, advantages: Tensor, mask: Tensor, options: LossOptions) -> PolicyLoss:
    """max(-A r, -A clip(r, 1 - low, 1 + high)), and at most clip_dual |A| where A < 0.

    PPO arXiv 1707.06347; separate bounds DAPO arXiv 2503.14476; dual clip arXiv 1912.09729.
    """
    advantages = zero_unmasked(advantages, mask)
    log_ratio = _log_ratio(logprobs, proximal, mask)
    loss, ratio = _clipped_surrogate(log_ratio, advantages, options)
    return _result(loss, log_ratio, ratio, _held_by_surrogate(ratio, advantages, options), mask)


def _sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(log_ratio, mask, -1).unsqueeze(-1).expand_as(log_ratio)


def gspo(logprobs: Tensor, proximal: Tensor, advantages: Tensor, mask: Tensor, options: LossOptions) -> PolicyLoss:
    """The clipped loss with one ratio per sequence: exp(mean log ratio of its tokens) (GSPO, arXiv 2507.18071).

    Every token of a row holds the row's loss; the paper's objective is that of denominator "sequence".
    """
    advantages = zero_unmasked(advantages, mask)
    log_ratio = _log_ratio(logprobs, proximal, mask)
    loss, ratio = _clipped_surrogate(_sequence_log_ratio(log_ratio, mask), advantages, options)
    return _result(loss, log_ratio, ratio, _held_by_surrogate(ratio, advantages, options), mask)


def gspo_token(
    logprobs: Tensor, proximal: Tensor, advantages: Tensor, mask: Tensor, options: LossOptions
) -> PolicyLoss:
    """GSPO's value with a gradient per token, so that advantages may differ within a row (arXiv 2507.18071, 4.3)."""
    advantages = zero_unmasked(advantages, mask)
    log_ratio = _log_ratio(logprobs, proximal, mask)
    per_token = _sequence_log_ratio(log_ratio, mask).detach() + log_ratio - log_ratio.detach()
    loss, ratio = _clipped_surrogate(per_token, advantages, options)
    return _result(loss, log_ratio, ratio, _held_by_surrogate(ratio, advantages, options), mask)


def cispo(logprobs: Tensor, proximal: Tensor, advantages: Tensor, mask: Tensor, options: LossOptions) -> PolicyLoss:
    """REINFORCE weighted by the clipped ratio as a constant: -A sg(clip(r)) log pi (CISPO, arXiv 2506.13585).

    No token loses its gradient. `clip_dual` is not read.
    """
    advantages = zero_unmasked(advantages, mask)
    log_ratio = _log_ratio(logprobs, proximal, mask)
    weight = _clipped(log_ratio.detach(), options)
    loss = -advantages * weight * zero_unmasked(logprobs, mask)
    ratio = _ratio(log_ratio)
    return _result(loss, log_ratio, ratio, _held_by_weight(ratio, advantages, options), mask)


def sapo(logprobs: Tensor, proximal: Tensor, advantages: Tensor, mask: Tensor, options: LossOptions) -> PolicyLoss:
    """A smooth gate in place of the clip: -A (4 / tau) sigmoid(tau (r - 1)) (SAPO, arXiv 2511.20347).

    tau is `tau_positive` where A >= 0 and `tau_negative` where A < 0. At r = 1 its gradient is that of -A r. No clip
    bound is read, and no token is counted as held by one.
    """
    advantages = zero_unmasked(advantages, mask)
    log_ratio = _log_ratio(logprobs, proximal, mask)
    ratio = _ratio(log_ratio)
    tau = torch.full_like(ratio, _given(options.tau_positive, "tau_positive"))
    tau = tau.masked_fill(advantages < 0, _given(options.tau_negative, "tau_negative"))
    loss = -advantages * (4.0 / tau) * torch.sigmoid(tau * (ratio - 1.0))
    return _result(loss, log_ratio, ratio, _held_by_none(ratio), mask)


PolicyLossFunction = Callable[[Tensor, Tensor, Tensor, Tensor, LossOptions], PolicyLoss]
LOSSES: Mapping[str, PolicyLossFunction] = MappingProxyType(
    {"ppo_clip": ppo_clip, "gspo": gspo, "gspo_token": gspo_token, "cispo": cispo, "sapo": sapo}
)
