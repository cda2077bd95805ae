"""The loss of one forward pass, and what is logged of it.

    per token = policy loss x mismatch weight + kl_coefficient x KL(policy, reference) - entropy_coefficient x entropy
                                                (measured alone where it was taken off the reward)
    loss      = sum of (per token x token weight) / denominator        the denominator of the whole optimiser step

Supervised training is the same with policy loss = -advantage x log-probability and advantages of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.auxiliary import entropy_bonus
from algorithms.kl import KL_ESTIMATORS
from algorithms.losses import LOSSES
from algorithms.mismatch import importance_weights
from algorithms.reductions import aggregate, masked_sum, token_weights
from policy.learning.sums import SUMS, LossSums, packed
from schemas.config import Algorithm, Mismatch


@dataclass(frozen=True, slots=True)
class Targets:
    """What is known of the trained tokens of some rows: [B, M], row b's targets in its first columns.

    `proximal` None stands for the current log-probabilities, which is exact before a batch's first update.
    """

    mask: Tensor
    advantages: Tensor
    behaviour: Tensor
    reference: Tensor | None
    proximal: Tensor | None
    denominator: float


@dataclass(frozen=True, slots=True)
class MeasuredLoss:
    """A loss to differentiate, its packed LossSums, and the largest mismatch of a token (float64, no gradient)."""

    loss: Tensor
    sums: Tensor
    largest_mismatch: Tensor


class Objective:
    """The objective of one algorithm; of supervised training where it is None."""

    def __init__(self, algorithm: Algorithm | None) -> None:
        self._algorithm = algorithm
        if algorithm is not None:
            self._correct = algorithm.mismatch is not None
            self._mismatch = algorithm.mismatch or Mismatch()  # measured in any case

    @property
    def entropy_in_loss(self) -> bool:
        """Whether the entropy needs a gradient."""
        return self._algorithm is not None and self._algorithm.loss.entropy_coefficient > 0

    @property
    def needs_distributions(self) -> bool:
        """Whether the reference term is the exact KL, which is given and not estimated."""
        return self._algorithm is not None and self._algorithm.kl.coefficient > 0 and self._algorithm.kl.exact

    def __call__(
        self,
        logprobs: Tensor,
        entropy: Tensor,
        targets: Targets,
        kl_coefficient: float,
        exact_kl: Tensor | None = None,
    ) -> MeasuredLoss:
        """The loss of rows whose current log-probabilities and entropies are given, [B, M] both; `exact_kl` too where
        it `needs_distributions`."""
        if self._algorithm is None:
            return _supervised(logprobs, entropy, targets)
        mask = targets.mask
        proximal = logprobs.detach() if targets.proximal is None else targets.proximal
        policy = LOSSES[self._algorithm.loss.name](logprobs, proximal, targets.advantages, mask, self._algorithm.loss)
        gap = importance_weights(proximal, targets.behaviour, mask, self._mismatch)
        policy_loss = policy.per_token * gap.weights if self._correct else policy.per_token
        per_token = policy_loss
        kl = exact_kl
        if kl is None and targets.reference is not None:
            kl = KL_ESTIMATORS[self._algorithm.kl.estimator](logprobs, targets.reference)
        if kl is not None and self._algorithm.kl.place == "loss":
            per_token = per_token + kl_coefficient * kl
        if self.entropy_in_loss:
            per_token = per_token + entropy_bonus(entropy, mask, self._algorithm.loss.entropy_coefficient)
        weights = token_weights(self._algorithm.loss.denominator, mask, logprobs.dtype)
        loss = aggregate(per_token, weights, targets.denominator)
        stats, zero = policy.stats, torch.zeros_like(loss)
        sums = LossSums(
            loss=loss,
            policy_loss=aggregate(policy_loss, weights, targets.denominator),
            tokens=stats.tokens,
            kl=zero if kl is None else masked_sum(kl, mask),
            kl_tokens=zero if kl is None else stats.tokens,
            entropy=masked_sum(entropy, mask),
            ratio=stats.ratio,
            clip_high=stats.clip_high,
            clip_low=stats.clip_low,
            clip_dual=stats.clip_dual,
            mismatch=gap.gap,
            mismatch_ratio=gap.ratio,
            mismatch_kl=gap.k3,
            mismatch_limited=gap.limited if self._correct else zero,
        )
        return MeasuredLoss(loss, packed(sums), gap.largest_gap.double())


def _supervised(logprobs: Tensor, entropy: Tensor, targets: Targets) -> MeasuredLoss:
    weights = token_weights("token", targets.mask, logprobs.dtype)
    loss = aggregate(-targets.advantages * logprobs, weights, targets.denominator)
    zero = torch.zeros_like(loss)
    measured = {
        "loss": loss,
        "policy_loss": loss,
        "tokens": targets.mask.bool().sum(),
        "entropy": masked_sum(entropy, targets.mask),
    }
    return MeasuredLoss(loss, packed(LossSums(**(dict.fromkeys(SUMS, zero) | measured))), zero.double())
