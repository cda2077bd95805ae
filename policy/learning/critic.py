"""The critic: the policy's backbone with one number per token in place of logits, and how it learns.

    ... observation | s0 s1 s2          sampled ids
                  h   h  h              hidden states, each of the id before
                  V0  V1 V2             V_t: the value of the state in which s_t is sampled

    shard  --values--> V_t of every sampled id --> assemble --> CRITIC table --update--> optimiser steps

As in the learner, each loss is a sum divided by a count that belongs to the whole optimiser step, so no split into
ranks and micro-batches changes a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor, nn

from policy.conversation.model_info import read_info, read_tokenizer
from policy.learning.critic_batch import VALUE_SUMS, CriticReport, ValueBatch, ValueStep, summarise
from policy.learning.scorer import Floats, TokenReader
from policy.learning.trained import Trained
from policy.network.collate import Collator, ModelInputs, PixelCache
from policy.network.forward import Backbone
from policy.network.load import LoadedPolicy, base_model, load
from policy.state.sharding import default_device, rank, refuse_bfloat16_alone, sum_over_ranks, world_size
from schemas.config import Critic, Model
from schemas.config.file import SettingError

__all__ = ["CriticLearner", "CriticReport", "ValueModule", "refuse_backbone", "token_values"]


class ValueModule(Backbone):
    """A network whose forward pass returns the value of the state before each target. Under FSDP it is the root.

    The head starts at 0: until it has learned, every state is worth the same.
    """

    def __init__(self, loaded: LoadedPolicy) -> None:
        """Wraps a network from policy.network.load.load; its output layer goes, since no logits are ever asked for."""
        super().__init__(loaded)
        network = base_model(self.model)
        self.head = nn.Linear(network.lm_head.in_features, 1)
        network.lm_head = nn.Identity()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Values [N] float32, whatever the backbone computes in."""
        return self.head(self.hidden_states(inputs).float()).squeeze(-1).clone()  # FSDP hooks outputs that are no views

    @torch.no_grad()
    def move(self, by: float) -> None:
        """Adds a number to every value."""
        self.head.bias.add_(by)


def token_values(critic: ValueModule, inputs: ModelInputs) -> Tensor:
    """Values [N] of the states before the targets, without a graph."""
    critic.eval()
    with torch.no_grad():
        return critic(inputs)


class CriticLearner(Trained):
    """The critic with its optimiser. In a process group it is sharded over all of its ranks."""

    def __init__(
        self,
        model: Model,
        critic: Critic,
        *,
        total_steps: int,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        """Loads and shards the backbone. Every rank of an initialised process group must do so.

        Args:
            model: the policy's; `critic.path` replaces its path.
            critic: optimiser, clip, layout and limits.
            total_steps: optimiser steps of the whole run, for the schedule.
            seed: of adapters' initial weights.
            device: None takes a GPU where there is one.
        """
        self._device = device or default_device()
        self._config = critic
        refuse_bfloat16_alone(model.dtype)
        model = model.model_copy(update={"path": critic.path or model.path})
        loaded = load(model, device=self._device, sharded=dist.is_initialized(), seed=seed)
        self._collator = Collator(loaded.image_token_id, loaded.image_stats, critic.layout)
        self.network = ValueModule(loaded)
        super().__init__(
            self.network,
            model,
            critic,
            total_steps=total_steps,
            seed=seed,
            device=self._device,
            section="critic",
            exact=[self.network.head],
        )
        self._reader = TokenReader(
            lambda inputs: token_values(self.network, inputs), self._collator, critic.micro_batches, self._device
        )

    def values(self, table: pa.Table, images: Sequence[pa.Table]) -> list[Floats]:
        """V_t of each sampled id, one array per row aligned with `token_ids`, 0 where the mask is 0.

        Each rank may give rows of its own, and all ranks must call.
        """
        return self._reader.per_token(table, images)

    def update(self, table: pa.Table, images: Sequence[pa.Table]) -> CriticReport:
        """Takes the optimiser steps that the table plans. Every rank calls it.

        Before its first step ever, the critic moves all its values by the mean of what it is to learn less what it
        said: rewards have any scale, and a small learning rate would take long to find it.

        Args:
            table: CRITIC rows; those of other ranks may be there or not.
            images: IMAGES tables that hold every digest of this rank's rows.

        Raises NonFiniteError when more than `max_nonfinite_steps` steps in a row were skipped.
        """
        batch = ValueBatch(table, rank())
        cache = PixelCache.from_tables(images)
        shift = 0.0
        if self._steps.taken == 0:
            shift = self._mean_residual(batch)
            self.network.move(shift)
        plan = batch.plan(self._device)
        steps = [self._optimiser_step(micro_batches, batch, cache, shift) for micro_batches in plan]
        return summarise(steps, self._steps.rate)

    def _mean_residual(self, batch: ValueBatch) -> float:
        sums = sum_over_ranks(("residual", "tokens"), batch.residual_sums().to(self._device))
        mean = sums["residual"] / max(1.0, sums["tokens"])
        return mean if math.isfinite(mean) else 0.0  # the step that follows is skipped and counted

    def _optimiser_step(
        self, micro_batches: Sequence[Sequence[int]], batch: ValueBatch, cache: PixelCache, shift: float
    ) -> ValueStep:
        self.network.train()
        sums = torch.zeros(len(VALUE_SUMS), dtype=torch.float64, device=self._device)
        for micro_batch in micro_batches:
            inputs = self._collator.collate(batch.rows(micro_batch), cache).to(self._device)
            loss, found = batch.loss(self.network(inputs), micro_batch, inputs, shift, self._config.value_clip)
            (loss * world_size()).backward()
            sums += found
        total = sum_over_ranks(VALUE_SUMS, sums)
        norm = self._steps.clip()
        return ValueStep(total, norm, self._steps.take(total["loss"], norm))


def refuse_backbone(model: Model, critic: Critic) -> None:
    """Raises SettingError where the critic could not read the policy's ids; reads no weights."""
    path = critic.path or model.path
    own, other = read_info(path, "critic.path"), read_info(model.path)
    for what in ("family", "image_token_id", "vocab_size"):
        if getattr(own, what) != getattr(other, what):
            raise SettingError(
                "critic.path",
                path,
                f"has {what} {getattr(own, what)}, model.path={model.path!r} has {getattr(other, what)}",
                "the critic reads the policy's ids, so start it from a model of the same kind",
            )
    if read_tokenizer(path).get_vocab() != read_tokenizer(model.path).get_vocab():
        raise SettingError(
            "critic.path",
            path,
            f"has another tokenizer than model.path={model.path!r}",
            "the critic reads the policy's ids, so start it from a model with the same one",
        )
