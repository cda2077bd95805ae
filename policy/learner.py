"""The learner: a batch in, optimiser steps, a report out. Plain Python; a Ray actor or Ray Train may hold it.

    TRAINING table --rows of this rank--> optimiser step -> micro-batch -> collate -> forward -> objective -> backward
                                               |                                                               |
                                               '-- clip, check that all is finite, AdamW  <-- sums over ranks --'

Gradients do not depend on the split into ranks and micro-batches: each loss is a sum divided by a count that belongs to
the whole optimiser step, and is multiplied by the number of ranks because FSDP averages over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from policy import checkpoint
from policy.collate import Collator, PixelCache
from policy.forward import PolicyModule
from policy.model import load
from policy.objective import SUMS, Objective
from policy.optimiser import build_optimiser, learning_rate, set_learning_rate
from policy.report import StepReport, UpdateReport, reduce_step, summarise
from policy.scorer import Floats, Scorer
from policy.sharding import Array, local_shards, rank, shard, world_size
from policy.training_batch import Plan, TrainingBatch, scatter
from schemas.config import Algorithm, Learner, Model

__all__ = ["NonFiniteError", "PolicyLearner", "UpdateReport"]


class NonFiniteError(RuntimeError):
    """Too many optimiser steps in a row had a loss or gradient that was not finite."""


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
        self._device = device or _default_device()
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
        return Scorer.frozen(model, learner, temperature, device or _default_device())

    def logprobs(
        self, table: pa.Table, images: Sequence[pa.Table], micro_batch_rows: int | None = None
    ) -> list[Floats]:
        """Log-probabilities of the trained ids under the current policy; see Scorer.logprobs."""
        return self._scorer.logprobs(table, images, micro_batch_rows)

    def update(self, table: pa.Table, images: Sequence[pa.Table], kl_coefficient: float) -> UpdateReport:
        """Takes the optimiser steps that the table plans. Every rank calls it with the same coefficient.

        Args:
            table: TRAINING rows; those of other ranks may be there or not.
            images: IMAGES tables that hold every digest of this rank's rows.
            kl_coefficient: of the reference term; above 0 it needs `reference_logprobs`.

        Raises NonFiniteError when more than `max_nonfinite_steps` steps in a row were skipped.
        """
        batch = TrainingBatch(table, rank())
        self._refuse(batch, kl_coefficient)
        cache = PixelCache.from_tables(images)
        plan = batch.plan(self._device)
        proximal = self._proximal(plan, batch, cache)
        steps = [self._optimiser_step(micro_batches, batch, proximal, cache, kl_coefficient) for micro_batches in plan]
        return summarise(steps, self.optimiser.param_groups[0]["lr"])

    def _refuse(self, batch: TrainingBatch, kl_coefficient: float) -> None:
        if self._model_config.dtype == "bfloat16" and not dist.is_initialized():
            raise ValueError(
                "model.dtype=bfloat16 trains with FSDP's mixed precision; initialise a process group first (one rank "
                "is enough), or use float32"
            )
        if kl_coefficient > 0 and not batch.has_reference:
            raise ValueError(
                f"kl_coefficient={kl_coefficient}, but there are rows without reference_logprobs; start a reference "
                "model or set algorithm.kl.coefficient=0"
            )

    def _proximal(self, plan: Plan, batch: TrainingBatch, cache: PixelCache) -> dict[int, Floats]:
        """Log-probabilities before the first update of the rows of later steps, by row number.

        Rows of the first step need none: their current log-probabilities are still those.
        """
        found: dict[int, Floats] = {}
        for micro_batch in (m for step in plan[1:] for m in step):
            values = self._scorer.flat(batch.rows(micro_batch), cache)
            found.update(zip(micro_batch, values, strict=False))  # none for an idle row
        return found

    def _optimiser_step(
        self,
        micro_batches: Sequence[Sequence[int]],
        batch: TrainingBatch,
        proximal: Mapping[int, Floats],
        cache: PixelCache,
        kl_coefficient: float,
    ) -> StepReport:
        self.policy.train()
        sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self._device)
        largest = torch.zeros((), dtype=torch.float64, device=self._device)
        for micro_batch in micro_batches:
            inputs = self._collator.collate(batch.rows(micro_batch), cache).to(self._device)
            logprobs, entropy = self.policy(inputs, self._objective.entropy_in_loss)
            targets = batch.targets(micro_batch, proximal, inputs)
            outcome = self._objective(scatter(logprobs, inputs), scatter(entropy, inputs), targets, kl_coefficient)
            (outcome.loss * world_size()).backward()
            sums += outcome.sums
            largest = torch.maximum(largest, outcome.largest_mismatch)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self._config.optimiser.max_grad_norm)
        step = reduce_step(sums, largest, norm)
        set_learning_rate(self.optimiser, learning_rate(self.steps_taken, self._config.optimiser, self._total_steps))
        self.steps_taken += 1
        if step.finite:
            self.optimiser.step()
        self.optimiser.zero_grad()
        self._count_skipped(step)
        return step

    def _count_skipped(self, step: StepReport) -> None:
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


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
