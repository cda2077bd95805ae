"""What a critic learns from a CRITIC table, the loss of one forward pass, and the report of an update.

loss = sum over trained ids of half the squared error (clipped) / trained ids of the whole optimiser step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.auxiliary import value_loss
from algorithms.reductions import masked_sum, zero_unmasked
from policy.learning.policy_batch import PlannedBatch, scatter, trained
from policy.network.collate import ModelInputs, ragged

# What is added up over micro-batches and ranks; `residual` is return - value before the update.
VALUE_SUMS: Sequence[str] = (
    "loss",
    "tokens",
    "value",
    "clipped",
    "return",
    "return_squared",
    "residual",
    "residual_squared",
)


class ValueBatch(PlannedBatch):
    """Rows of a CRITIC table."""

    def __init__(self, table: pa.Table, rank: int) -> None:
        super().__init__(table, rank)
        self._values = ragged(self._mine, "values")
        self._returns = ragged(self._mine, "returns")

    def residual_sums(self) -> Tensor:
        """Sum of return - value over this rank's trained ids, and their number: [2] float64."""
        rows = zip(self._returns, self._values, self._rows, strict=True)
        kept = [(returns - values)[row.mask.astype(bool)] for returns, values, row in rows]
        return torch.tensor([sum(float(each.sum()) for each in kept), sum(map(len, kept))], dtype=torch.float64)

    def loss(
        self, flat: Tensor, micro_batch: Sequence[int], inputs: ModelInputs, shift: float, clip: float | None
    ) -> tuple[Tensor, Tensor]:
        """A loss to differentiate, and VALUE_SUMS without a gradient (float64).

        Args:
            flat: the critic's values of the trained ids [N].
            micro_batch: row numbers; empty for an idle row.
            inputs: the collated rows.
            shift: how far all values were moved at once since the table's were computed.
            clip: of the value loss.
        """
        mask = trained(inputs)
        old, returns = (self.chosen(column, micro_batch, inputs) for column in (self._values, self._returns))
        terms = value_loss(scatter(flat, inputs), old + shift, returns, mask, clip)
        loss = terms.per_token.sum() / self.denominator(micro_batch)
        target, residual = (zero_unmasked(x, mask).double() for x in (returns, returns - old))
        sums = {
            "loss": loss,
            "tokens": terms.tokens,
            "value": terms.value,
            "clipped": terms.clipped,
            "return": masked_sum(target, mask),
            "return_squared": masked_sum(target.square(), mask),
            "residual": masked_sum(residual, mask),
            "residual_squared": masked_sum(residual.square(), mask),
        }
        return loss, torch.stack([sums[name].detach().double() for name in VALUE_SUMS])


@dataclass(frozen=True, slots=True)
class CriticReport:
    """What one update of the critic did, over all ranks. Steps that were skipped count in `skipped` alone, and where
    none was taken, what they would have measured is None.

    loss: mean over the optimiser steps. value_mean: as learned from, during the update. explained_variance: 1 -
    variance of (return - value) / variance of the returns, with the values before the update; 0 where the returns do
    not vary. 1 is a perfect critic, 0 one that knows no more than the mean, below 0 one that does harm.
    clip_fraction: of trained tokens whose value the clip held. grad_norm: before clipping.
    """

    loss: float | None
    value_mean: float | None
    return_mean: float | None
    explained_variance: float | None
    clip_fraction: float | None
    grad_norm: float | None
    lr: float
    optimiser_steps: int
    skipped: int

    def numbers(self) -> dict[str, float | None]:
        """Every field by name, for a log."""
        return {name: None if value is None else float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class ValueStep:
    """One optimiser step: VALUE_SUMS over all ranks, the gradient's norm, and whether it was taken."""

    sums: Mapping[str, float]
    grad_norm: float
    taken: bool


def summarise(steps: Sequence[ValueStep], lr: float) -> CriticReport:
    """The report over the optimiser steps of one update; `lr` is that of the last."""
    taken = [step for step in steps if step.taken]
    if not taken:
        return CriticReport(*[None] * 6, lr=lr, optimiser_steps=0, skipped=len(steps))
    total = {name: sum(step.sums[name] for step in taken) for name in VALUE_SUMS}
    n_steps, n_tokens = len(taken), max(1.0, total["tokens"])
    mean = {name: value / n_tokens for name, value in total.items()}
    spread = mean["return_squared"] - mean["return"] ** 2
    unexplained = mean["residual_squared"] - mean["residual"] ** 2
    return CriticReport(
        loss=total["loss"] / n_steps,
        value_mean=mean["value"],
        return_mean=mean["return"],
        explained_variance=1 - unexplained / spread if spread > 1e-12 else 0.0,
        clip_fraction=mean["clipped"],
        grad_norm=sum(step.grad_norm for step in taken) / n_steps,
        lr=lr,
        optimiser_steps=len(taken),
        skipped=len(steps) - len(taken),
    )
