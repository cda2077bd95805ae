"""Advantage estimators by name, and the combinations that would silently do nothing.

`ESTIMATORS[name](batch)` takes every estimator's inputs in one record and gives advantages for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from algorithms.advantages import dr_grpo, grpo, grpo_passk, remax, rloo
from algorithms.kl import KL_ESTIMATORS
from algorithms.losses import LOSSES
from algorithms.token_advantages import gae, reinforce_plus_plus, reinforce_plus_plus_baseline, token_rewards, whiten


@dataclass(frozen=True, slots=True)
class EstimatorBatch:
    """What estimators read. scores, groups: [B]. mask: [B, T]. penalty: [B, T], taken off each token's reward.

    greedy_scores [B] for "remax"; gamma for "gae" and "reinforce_plus_plus"; for "gae" values [B, T], lam of the
    advantages, return_lam of the returns, and whether advantages are whitened.

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
    lam: float = 0.95
    return_lam: float = 1.0
    whiten: bool = True

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
    if batch.values is None:
        raise ValueError("advantage 'gae' needs values: the critic's, of every token")
    advantages, _ = gae(batch.rewards, batch.values, batch.mask, batch.gamma, batch.lam)
    _, returns = gae(batch.rewards, batch.values, batch.mask, batch.gamma, batch.return_lam)
    return Advantages(whiten(advantages, batch.mask) if batch.whiten else advantages, returns)


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
BY_GROUP = frozenset({"grpo", "dr_grpo", "grpo_passk", "rloo"})  # what adaptive weights apply to
NEEDS_GROUPS = BY_GROUP | {"reinforce_plus_plus_baseline"}
LOSS_READS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "ppo_clip": frozenset({"clip_low", "clip_high", "clip_dual"}),
        "gspo": frozenset({"clip_low", "clip_high", "clip_dual"}),
        "gspo_token": frozenset({"clip_low", "clip_high", "clip_dual"}),
        "cispo": frozenset({"clip_low", "clip_high"}),
        "sapo": frozenset({"tau_positive", "tau_negative"}),
    }
)


def refuse(
    *,
    advantage: str,
    loss: str,
    samples_per_task: int,
    adaptive: bool = False,
    kl_loss: str | None = None,
    gamma_set: bool = False,
    gae_set: bool = False,
) -> tuple[str, ...]:
    """Why this combination would have no effect, or not the one asked for; empty if it is sound.

    kl_loss: estimator of a KL term in the loss, None for no such term. gamma_set, gae_set: whether the user wrote them.
    """
    reasons = [
        f"unknown {what} {name!r}; choose from {', '.join(known)}"
        for what, name, known in (("advantage", advantage, ESTIMATORS), ("loss", loss, LOSSES))
        if name not in known
    ]
    if kl_loss is not None and kl_loss not in KL_ESTIMATORS:
        reasons.append(f"unknown KL estimator {kl_loss!r}; choose from {', '.join(KL_ESTIMATORS)}")
    if kl_loss == "k1":
        reasons.append("KL estimator 'k1' in the loss has an expected gradient of 0; use k2 or k3")
    if adaptive and advantage not in BY_GROUP:
        reasons.append(
            f"adaptive weighting scales a group's advantages, which advantage {advantage!r} does not form by group; "
            f"choose from {', '.join(sorted(BY_GROUP))}, or turn it off"
        )
    if samples_per_task < 2 and advantage in NEEDS_GROUPS:
        reasons.append(
            f"advantage {advantage!r} compares the samples of a task and {samples_per_task} sample leaves nothing to "
            "compare: every advantage would be 0; draw at least 2, or use reinforce_plus_plus, remax or gae"
        )
    if gamma_set and advantage not in ("gae", "reinforce_plus_plus"):
        reasons.append(f"advantage {advantage!r} does not discount: gamma has no effect; remove it")
    if gae_set and advantage != "gae":
        reasons.append(f"advantage {advantage!r} reads no values: the gae section has no effect; remove it")
    return tuple(reasons)
