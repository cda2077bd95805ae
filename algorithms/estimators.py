"""Advantage estimators by name.

`ESTIMATORS[name](batch)` takes every estimator's inputs in one record and gives advantages for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from algorithms.advantages import dr_grpo, grpo, grpo_passk, remax, rloo
from algorithms.token_advantages import gae, reinforce_plus_plus, reinforce_plus_plus_baseline, token_rewards, whiten


class GaeOptions(Protocol):
    """What "gae" reads: lam of the advantages, return_lam of the returns, and whether advantages are whitened."""

    @property
    def lam(self) -> float: ...
    @property
    def return_lam(self) -> float: ...
    @property
    def whiten(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class EstimatorBatch:
    """What estimators read. scores, groups: [B]. mask: [B, T]. penalty: [B, T], taken off each token's reward.

    greedy_scores [B] for "remax"; gamma for "gae" and "reinforce_plus_plus"; for "gae" values [B, T] and how they are
    used.

    >>> import torch
    >>> batch = EstimatorBatch(torch.tensor([1.0, 3.0]), torch.tensor([0, 0]), torch.tensor([[1, 1], [0, 1]]))
    >>> ESTIMATORS["dr_grpo"](batch).advantages.tolist()
    [[-1.0, -1.0], [0.0, 1.0]]
    """

    scores: Tensor
    groups: Tensor
    mask: Tensor
    penalty: Tensor | None = None
    greedy_scores: Tensor | None = None
    values: Tensor | None = None
    gamma: float = 1.0
    gae: GaeOptions | None = None

    @property
    def rewards(self) -> Tensor:
        """Rewards of each token [B, T]."""
        return token_rewards(self.scores, self.mask, self.penalty)

    @property
    def totals(self) -> Tensor:
        """Scores [B] less each row's whole penalty."""
        return self.scores if self.penalty is None else self.rewards.sum(-1)


@dataclass(frozen=True, slots=True)
class Advantages:
    """Advantages [B, T], 0 outside the mask, and for a critic the returns it learns.

    >>> import torch
    >>> Advantages(torch.zeros(1, 2)).returns is None
    True
    """

    advantages: Tensor
    returns: Tensor | None = None


def _spread(sequence: Tensor, mask: Tensor) -> Advantages:
    return Advantages(sequence.unsqueeze(-1) * mask.bool())


def _grouped(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[EstimatorBatch], Advantages]:
    return lambda batch: _spread(function(batch.totals, batch.groups), batch.mask)


def _remax(batch: EstimatorBatch) -> Advantages:
    if batch.greedy_scores is None:
        raise ValueError("advantage 'remax' needs greedy_scores: one greedy reply per task, scored")
    return _spread(remax(batch.totals, batch.greedy_scores), batch.mask)


def _gae(batch: EstimatorBatch) -> Advantages:
    if batch.values is None or batch.gae is None:
        raise ValueError("advantage 'gae' needs values (the critic's, of every token) and how to use them")
    advantages, _ = gae(batch.rewards, batch.values, batch.mask, batch.gamma, batch.gae.lam)
    _, returns = gae(batch.rewards, batch.values, batch.mask, batch.gamma, batch.gae.return_lam)
    return Advantages(whiten(advantages, batch.mask) if batch.gae.whiten else advantages, returns)


ESTIMATORS: Mapping[str, Callable[[EstimatorBatch], Advantages]] = MappingProxyType(
    {
        "grpo": _grouped(grpo),
        "dr_grpo": _grouped(dr_grpo),
        "grpo_passk": _grouped(grpo_passk),
        "rloo": _grouped(rloo),
        "reinforce_plus_plus": lambda b: Advantages(reinforce_plus_plus(b.rewards, b.mask, b.gamma)),
        "reinforce_plus_plus_baseline": lambda b: Advantages(reinforce_plus_plus_baseline(b.totals, b.groups, b.mask)),
        "remax": _remax,
        "gae": _gae,
    }
)
