"""A rank's rows of a table to learn from: the plan of its forward passes, and the targets of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from policy.learning.objective import Targets
from policy.learning.scorer import IDLE, Floats
from policy.network.collate import ModelInputs, Row, ragged, rows_of
from policy.state.sharding import most_over_ranks

Plan = list[list[list[int]]]  # row numbers by optimiser step and micro-batch
Column = list[npt.NDArray[Any]]


class PlannedBatch:
    """The rows of one rank. Ragged columns are views of the table; only the values of trained ids are copied."""

    def __init__(self, table: pa.Table, rank: int) -> None:
        self._mine = table.filter(pc.field("rank") == rank)
        self._rows = rows_of(self._mine)
        self._denominator = self._mine.column("denominator").to_numpy()
        self._step = self._mine.column("optimiser_step").to_numpy()
        self._micro_batch = self._mine.column("micro_batch").to_numpy()

    def plan(self, device: str) -> Plan:
        """Row numbers of every forward pass. It has the same shape on every rank: where this one has no rows, the
        micro-batch is empty. All ranks must call it.

        Raises ValueError if rows of one optimiser step divide by different counts.
        """
        for step in np.unique(self._step):
            counted = np.unique(self._denominator[self._step == step])
            if len(counted) > 1:
                raise ValueError(
                    f"optimiser step {step}: denominators {counted[:3].tolist()} in one step; its rows must be counted "
                    "together, once"
                )
        [n_steps] = most_over_ranks([int(self._step.max(initial=-1)) + 1], device)
        counts = [int(self._micro_batch[self._step == s].max(initial=-1)) + 1 for s in range(n_steps)]
        return [
            [np.flatnonzero((self._step == s) & (self._micro_batch == m)).tolist() for m in range(count)]
            for s, count in enumerate(most_over_ranks(counts, device))
        ]

    def rows(self, micro_batch: Sequence[int]) -> Sequence[Row]:
        """The rows of a micro-batch; an idle row, which trains nothing, for an empty one."""
        return [self._rows[r] for r in micro_batch] or IDLE

    def chosen(self, column: Column, micro_batch: Sequence[int], inputs: ModelInputs) -> Tensor:
        """The trained ids' values of a micro-batch, in the layout of `scatter`."""
        return _padded([column[r][self._rows[r].mask.astype(bool)] for r in micro_batch], inputs)

    def denominator(self, micro_batch: Sequence[int]) -> float:
        """What the loss of the micro-batch's optimiser step divides by; 1 for an empty one, which has no loss."""
        return float(self._denominator[micro_batch[0]]) if micro_batch else 1.0


class TrainingBatch(PlannedBatch):
    """Rows of a TRAINING table."""

    def __init__(self, table: pa.Table, rank: int) -> None:
        super().__init__(table, rank)
        self._advantages = ragged(self._mine, "advantages")
        self._behaviour = ragged(self._mine, "behaviour_logprobs")
        has_reference = not self._mine.column("reference_logprobs").null_count
        self._reference = ragged(self._mine, "reference_logprobs") if has_reference else None

    @property
    def has_reference(self) -> bool:
        """Whether every row has the reference's log-probabilities."""
        return self._reference is not None

    def targets(self, micro_batch: Sequence[int], proximal: Mapping[int, Floats], inputs: ModelInputs) -> Targets:
        """What is known of the trained ids of a micro-batch, in the layout of `scatter`.

        Args:
            micro_batch: row numbers.
            proximal: log-probabilities before the first update, by row number; all rows of a micro-batch or none.
            inputs: the collated rows.
        """
        known = bool(micro_batch) and micro_batch[0] in proximal
        return Targets(
            mask=trained(inputs),
            advantages=self.chosen(self._advantages, micro_batch, inputs),
            behaviour=self.chosen(self._behaviour, micro_batch, inputs),
            reference=None if self._reference is None else self.chosen(self._reference, micro_batch, inputs),
            proximal=_padded([proximal[r] for r in micro_batch], inputs) if known else None,
            denominator=self.denominator(micro_batch),
        )


def scatter(flat: Tensor, inputs: ModelInputs) -> Tensor:
    """Values [N] of the trained ids -> [B, M]: row b's in its first columns, 0 in the rest."""
    rows, columns = inputs.target_rows, inputs.target_columns
    shape = (int(rows.max()) + 1, int(columns.max()) + 1) if len(rows) else (1, 1)
    return flat.new_zeros(shape).index_put((rows, columns), flat)


def trained(inputs: ModelInputs) -> Tensor:
    """The mask [B, M] of `scatter`'s layout: 1 where there is a trained id."""
    return scatter(torch.ones_like(inputs.target_ids, dtype=torch.float32), inputs)


def _padded(values: Column, inputs: ModelInputs) -> Tensor:
    flat = np.concatenate([np.zeros(0), *values]).astype(np.float32)
    return scatter(torch.from_numpy(flat).to(inputs.target_ids.device), inputs)


def write_batch(folder: Path, training: pa.Table, images: Sequence[pa.Table]) -> None:
    """Keeps a batch for inspection: training.arrow and images.arrow, which pyarrow.ipc.open_file reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("training", training), ("images", pa.concat_tables(images))):
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
