"""The learner: a batch in, optimiser steps, a report out. Plain Python; a Ray actor or Ray Train may hold it.

    TRAINING table --rows of this rank--> optimiser step -> micro-batch -> collate -> forward -> objective -> backward
                                               |                                                               |
                                               '-- clip, check that all is finite, AdamW  <-- sums over ranks --'

Gradients do not depend on the split into ranks and micro-batches: each loss is a sum divided by a count that belongs to
the whole optimiser step, and is multiplied by the number of ranks because FSDP averages over them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from policy import checkpoint
from policy.collate import Collator, ModelInputs, PixelCache, Row, ragged, rows_of
from policy.forward import PolicyModule
from policy.model import load
from policy.objective import SUMS, Objective, Targets
from policy.optimiser import build_optimiser, learning_rate, set_learning_rate
from policy.scorer import IDLE, Floats, Scorer
from policy.sharding import Array, local_shards, most_over_ranks, rank, shard, world_size
from schemas.config import Algorithm, Learner, Model

Plan = list[list[list[int]]]  # row numbers by optimiser step and micro-batch


class NonFiniteError(RuntimeError):
    """Too many optimiser steps in a row had a loss or gradient that was not finite."""


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update did, over all ranks. Losses are means over its optimiser steps, the others over trained tokens.

    kl: to the reference, by the configured estimator; 0 without one. ratio: current to proximal. clip_*: share of
    tokens held by each bound. mismatch: |sampler - learner| of the log-probabilities before the update; _limited: share
    of tokens whose weight the limit cut. grad_norm: before clipping. Skipped steps count in `skipped` alone.
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
    mismatch_limited: float
    grad_norm: float
    lr: float
    trained_tokens: int
    optimiser_steps: int
    skipped: int

    def numbers(self) -> dict[str, float]:
        """Every field by name, for a log."""
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of this rank's rows; ragged ones as views."""

    rows: list[Row]
    advantages: list[npt.NDArray[Any]]
    behaviour: list[npt.NDArray[Any]]
    reference: list[npt.NDArray[Any]] | None
    denominator: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Step:
    """What one optimiser step measured: SUMS over all ranks, the largest mismatch, the gradient's norm."""

    sums: dict[str, float]
    largest_mismatch: float
    grad_norm: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.sums["loss"]) and math.isfinite(self.grad_norm)


class PolicyLearner:
    """The trained policy with its optimiser. In a process group it is sharded over all of its ranks."""

    def __init__(
        self,
        model: Model,
        learner: Learner,
        algorithm: Algorithm | None,
        *,
        total_steps: int,
        temperature: float,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        """Loads and shards the model. Every rank of an initialised process group must do so.

        Args:
            model: what to load and train.
            learner: optimiser, layout and limits.
            algorithm: None for supervised training on the mask (advantages are then weights of the targets).
            total_steps: optimiser steps of the whole run, for the schedule.
            temperature: that of the sampler; 1 for supervised training.
            seed: of adapters' initial weights.
            device: None takes a GPU where there is one.
        """
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model_config, self._config = model, learner
        self._total_steps = total_steps
        sharded = dist.is_initialized()
        loaded = load(model, device=self._device, sharded=sharded, seed=seed)
        self._collator = Collator(loaded.image_token_id, loaded.image_stats, learner.layout)
        self.policy = PolicyModule(loaded, temperature)
        if sharded:
            mesh = init_device_mesh(self._device, (world_size(),), mesh_dim_names=("ranks",))
            shard(self.policy, mesh, model.dtype)
        self.policy.to(self._device)
        self.optimiser = build_optimiser(self.policy.parameters(), learner.optimiser)
        self._scorer = Scorer(self.policy, self._collator, learner.micro_batch_rows, self._device)
        self._objective = Objective(algorithm)
        self.steps_taken = 0  # optimiser steps, skipped ones too: the schedule's clock
        self._skipped_in_a_row = 0

    @staticmethod
    def frozen(model: Model, learner: Learner, *, temperature: float, device: str | None = None) -> Scorer:
        """A model that is only read, such as the reference; see Scorer."""
        return Scorer.frozen(model, learner, temperature, device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def logprobs(
        self, table: pa.Table, images: Sequence[pa.Table], micro_batch_rows: int | None = None
    ) -> list[Floats]:
        """Log-probabilities of the trained ids under the current policy; see Scorer.logprobs."""
        return self._scorer.logprobs(table, images, micro_batch_rows)

    def update(self, batch: pa.Table, images: Sequence[pa.Table], kl_coefficient: float) -> UpdateReport:
        """Takes the optimiser steps that the table plans. Every rank calls it with the same coefficient.

        Args:
            batch: TRAINING rows; those of other ranks may be there or not.
            images: IMAGES tables that hold every digest of this rank's rows.
            kl_coefficient: of the reference term; above 0 it needs `reference_logprobs`.

        Raises NonFiniteError when more than `max_nonfinite_steps` steps in a row were skipped.
        """
        if self._model_config.dtype == "bfloat16" and not dist.is_initialized():
            raise ValueError(
                "model.dtype=bfloat16 trains with FSDP's mixed precision; initialise a process group first (one rank "
                "is enough), or use float32"
            )
        mine = batch.filter(pc.equal(batch.column("rank"), rank()))
        columns = _read(mine, kl_coefficient)
        plan = self._plan(mine)
        cache = PixelCache.from_tables(images)
        proximal = self._proximal(plan, columns, cache)
        steps: list[_Step] = []
        for micro_batches in plan:
            steps.append(self._optimiser_step(micro_batches, columns, proximal, cache, kl_coefficient))
        return _report(steps, self.optimiser.param_groups[0]["lr"])

    def _plan(self, mine: pa.Table) -> Plan:
        """The same shape on every rank: where this one has no rows, the micro-batch is empty."""
        step = mine.column("optimiser_step").to_numpy()
        micro = mine.column("micro_batch").to_numpy()
        [n_steps] = most_over_ranks([int(step.max(initial=-1)) + 1], self._device)
        counts = [int(micro[step == s].max(initial=-1)) + 1 for s in range(n_steps)]
        return [
            [np.flatnonzero((step == s) & (micro == m)).tolist() for m in range(count)]
            for s, count in enumerate(most_over_ranks(counts, self._device))
        ]

    def _proximal(self, plan: Plan, columns: _Columns, cache: PixelCache) -> dict[int, Floats]:
        """Log-probabilities before the first update, by row, of the rows of later steps.

        Rows of the first step need none: their current log-probabilities are still those.
        """
        found: dict[int, Floats] = {}
        for micro_batch in (m for step in plan[1:] for m in step):
            values = self._scorer.flat([columns.rows[r] for r in micro_batch] or IDLE, cache)
            found.update(zip(micro_batch, values, strict=False))
        return found

    def _optimiser_step(
        self,
        micro_batches: list[list[int]],
        columns: _Columns,
        proximal: dict[int, Floats],
        cache: PixelCache,
        kl_coefficient: float,
    ) -> _Step:
        self.policy.train()
        sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self._device)
        largest = torch.zeros((), dtype=torch.float64, device=self._device)
        for rows in micro_batches:
            inputs = self._collator.collate([columns.rows[r] for r in rows] or IDLE, cache).to(self._device)
            logprobs, entropy = self.policy(inputs, self._objective.entropy_in_loss)
            targets = _targets(rows, columns, proximal, inputs)
            outcome = self._objective(_pad(logprobs, inputs), _pad(entropy, inputs), targets, kl_coefficient)
            (outcome.loss * world_size()).backward()
            sums += outcome.sums
            largest = torch.maximum(largest, outcome.largest_mismatch)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self._config.optimiser.max_grad_norm)
        step = _reduced(sums, largest, norm)
        set_learning_rate(self.optimiser, learning_rate(self.steps_taken, self._config.optimiser, self._total_steps))
        self.steps_taken += 1
        if step.finite:
            self.optimiser.step()
        self.optimiser.zero_grad()
        self._count_skipped(step)
        return step

    def _count_skipped(self, step: _Step) -> None:
        self._skipped_in_a_row = 0 if step.finite else self._skipped_in_a_row + 1
        if self._skipped_in_a_row > self._config.max_nonfinite_steps:
            raise NonFiniteError(
                f"{self._skipped_in_a_row} optimiser steps in a row were not finite (last loss {step.sums['loss']}, "
                f"gradient norm {step.grad_norm}); lower learner.optimiser.lr, or raise learner.max_nonfinite_steps"
            )

    def local_shards(self) -> dict[str, Array]:
        """This rank's rows of every weight, for sharding.join_shards."""
        return local_shards(self.policy)

    def save(self, folder: str, extra: dict[str, Any]) -> None:
        """Writes a checkpoint; complete on disk when it returns on every rank. See policy.checkpoint."""
        counters = {"steps_taken": self.steps_taken, "skipped_in_a_row": self._skipped_in_a_row}
        checkpoint.save(folder, self.policy, self.optimiser, counters, extra)

    def load(self, folder: str) -> dict[str, Any]:
        """Continues from a checkpoint, written at any number of ranks; returns its extra state."""
        counters = checkpoint.load(folder, self.policy, self.optimiser)
        self.steps_taken, self._skipped_in_a_row = counters["steps_taken"], counters["skipped_in_a_row"]
        return checkpoint.read_extra(folder)

    def export(self, folder: str) -> None:
        """Writes the model as a Hugging Face checkpoint, adapters merged. Every rank calls it, rank 0 writes."""
        checkpoint.export(folder, self.policy, self._model_config)


def _read(mine: pa.Table, kl_coefficient: float) -> _Columns:
    reference = mine.column("reference_logprobs")
    if reference.null_count and kl_coefficient > 0:
        raise ValueError(
            f"kl_coefficient={kl_coefficient}, but {reference.null_count} of {mine.num_rows} rows have no "
            "reference_logprobs; start a reference model or set algorithm.kl.coefficient=0"
        )
    return _Columns(
        rows=rows_of(mine),
        advantages=ragged(mine, "advantages"),
        behaviour=ragged(mine, "behaviour_logprobs"),
        reference=None if reference.null_count else ragged(mine, "reference_logprobs"),
        denominator=mine.column("denominator").to_numpy(),
    )


def _targets(rows: list[int], columns: _Columns, proximal: dict[int, Floats], inputs: ModelInputs) -> Targets:
    masks = [columns.rows[r].mask.astype(bool) for r in rows]

    def padded(column: list[npt.NDArray[Any]]) -> Tensor:
        chosen = [column[r][mask] for r, mask in zip(rows, masks, strict=True)]
        return _padded_like(chosen, inputs)

    return Targets(
        mask=_pad(torch.ones_like(inputs.target_ids, dtype=torch.float32), inputs),
        advantages=padded(columns.advantages),
        behaviour=padded(columns.behaviour),
        reference=None if columns.reference is None else padded(columns.reference),
        proximal=_padded_like([proximal[r] for r in rows], inputs) if rows and rows[0] in proximal else None,
        denominator=float(columns.denominator[rows[0]]) if rows else 1.0,
    )


def _padded_like(values: list[npt.NDArray[Any]], inputs: ModelInputs) -> Tensor:
    flat = np.concatenate([np.zeros(0), *values]).astype(np.float32)
    return _pad(torch.from_numpy(flat).to(inputs.target_ids.device), inputs)


def _pad(flat: Tensor, inputs: ModelInputs) -> Tensor:
    """[N] of the targets -> [B, M], 0 where a row has fewer."""
    rows, columns = inputs.target_rows, inputs.target_columns
    shape = (int(rows.max()) + 1, int(columns.max()) + 1) if len(rows) else (1, 1)
    return flat.new_zeros(shape).index_put((rows, columns), flat)


def _reduced(sums: Tensor, largest: Tensor, norm: Tensor) -> _Step:
    if dist.is_initialized():
        dist.all_reduce(sums)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return _Step(dict(zip(SUMS, sums.tolist(), strict=True)), float(largest), float(norm))


def _report(steps: list[_Step], lr: float) -> UpdateReport:
    taken = [step for step in steps if step.finite]
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
        mismatch_limited=total["mismatch_limited"] / n_tokens,
        grad_norm=sum(step.grad_norm for step in taken) / n_steps,
        lr=lr,
        trained_tokens=int(total["tokens"]),
        optimiser_steps=len(taken),
        skipped=len(steps) - len(taken),
    )
