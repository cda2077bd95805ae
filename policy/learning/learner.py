"""The learner: a batch in, optimiser steps, a report out. Plain Python; a Ray actor or Ray Train may hold it.

    TRAINING table --rows of this rank--> optimiser step -> micro-batch -> collate -> forward -> objective -> backward
                                               |                                                               |
                                               '-- clip, check that all is finite, AdamW  <-- sums over ranks --'

Gradients do not depend on the split into ranks and micro-batches: each loss is a sum divided by a count that belongs to
the whole optimiser step, and is multiplied by the number of ranks because FSDP averages over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch
import torch.distributed as dist

from policy.conversation.model_info import own_template
from policy.learning.exact_kl import ExactReference
from policy.learning.objective import Objective
from policy.learning.policy_batch import Plan, TrainingBatch, scatter
from policy.learning.reports import StepLimits, StepReport, UpdateReport, reduce_step, summarise
from policy.learning.scorer import Floats, Scorer
from policy.learning.steps import NonFiniteError
from policy.learning.sums import SUMS
from policy.learning.trained import Trained
from policy.network.collate import Collator, PixelCache
from policy.network.forward import PolicyModule
from policy.network.load import load
from policy.network.sight import refuse_blind
from policy.state.export import export
from policy.state.sharding import Array, default_device, local_shards, rank, refuse_bfloat16_alone, world_size
from schemas.config import Algorithm, Learner, Model

__all__ = ["NonFiniteError", "PolicyLearner", "UpdateReport"]


class PolicyLearner(Trained):
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

        Raises SettingError where the model cannot be used; see load and sight.refuse_blind.
        """
        self._device = device or default_device()
        self._model_config, self._config = model, learner
        self._template = own_template(model)
        loaded = load(model, device=self._device, sharded=dist.is_initialized(), seed=seed)
        self._collator = Collator(loaded.image_token_id, loaded.image_stats, learner.layout)
        self.policy = PolicyModule(loaded, temperature)
        super().__init__(
            self.policy, model, learner, total_steps=total_steps, seed=seed, device=self._device, section="learner"
        )
        refuse_blind(self.policy, loaded, model.path, self._device)
        self._scorer = Scorer(self.policy, self._collator, learner.micro_batches, self._device)
        self._objective = Objective(algorithm)
        self._reference = (
            ExactReference(model, learner.sharding, self._device) if self._objective.needs_distributions else None
        )
        self._limits = StepLimits(learner.max_kl, learner.max_ratio)

    @staticmethod
    def frozen(model: Model, learner: Learner, *, temperature: float, device: str | None = None) -> Scorer:
        """A model that is only read, such as the reference; see Scorer."""
        return Scorer.frozen(model, learner, temperature, device or default_device())

    def logprobs(self, table: pa.Table, images: Sequence[pa.Table]) -> list[Floats]:
        """Log-probabilities of the trained ids under the current policy; see Scorer.logprobs."""
        return self._scorer.logprobs(table, images)

    def update(self, table: pa.Table, images: Sequence[pa.Table], kl_coefficient: float) -> UpdateReport:
        """Takes the optimiser steps that the table plans. Every rank calls it with the same coefficient.

        Args:
            table: TRAINING rows; those of other ranks may be there or not.
            images: IMAGES tables that hold every digest of this rank's rows.
            kl_coefficient: of the reference term; above 0 it needs `reference_logprobs`, unless the KL is `full`.

        Raises NonFiniteError when more than `max_nonfinite_steps` steps in a row were skipped.
        """
        batch = TrainingBatch(table, rank())
        self._refuse(batch, kl_coefficient)
        cache = PixelCache.from_tables(images)
        plan = batch.plan(self._device)
        proximal = self._proximal(plan, batch, cache)
        steps = [self._optimiser_step(micro_batches, batch, proximal, cache, kl_coefficient) for micro_batches in plan]
        return summarise(steps, self._steps.rate)

    def _refuse(self, batch: TrainingBatch, kl_coefficient: float) -> None:
        refuse_bfloat16_alone(self._model_config.dtype)
        if kl_coefficient > 0 and not batch.has_reference and self._reference is None:
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
            reference = None if self._reference is None else self._reference(inputs)
            outputs = self.policy(inputs, self._objective.entropy_in_loss, reference)
            logprobs, entropy, *exact_kl = (scatter(values, inputs) for values in outputs)
            targets = batch.targets(micro_batch, proximal, inputs)
            found = self._objective(logprobs, entropy, targets, kl_coefficient, *exact_kl)
            (found.loss * world_size()).backward()
            sums += found.sums
            largest = torch.maximum(largest, found.largest_mismatch)
        step = reduce_step(sums, largest, self._steps.clip()).held_to(self._limits)
        self._steps.take(step.sums.loss, step.grad_norm, step.over)
        return step

    def local_shards(self) -> dict[str, Array]:
        """This rank's rows of every weight, for sharding.join_shards."""
        return local_shards(self.policy)

    def export(self, folder: str) -> None:
        """Writes the model as a Hugging Face checkpoint, adapters merged. Every rank calls it, rank 0 writes."""
        export(folder, self.policy, self._model_config, self._template)
