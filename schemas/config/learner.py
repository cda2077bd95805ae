"""How a batch becomes optimiser steps: the policy's, and a critic's."""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from schemas.config.effect import refuse_unread
from schemas.config.micro_batches import MicroBatches
from schemas.config.types import DType, Fraction
from schemas.task import Record


class Optimiser(Record):
    """AdamW and its schedule. The learning rate warms up linearly, then follows `schedule` down to min_ratio x lr."""

    lr: PositiveFloat = 1e-6
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    state_dtype: DType = "float32"  # of the two moments; bfloat16 halves them, rounded stochastically
    weight_decay: NonNegativeFloat = 0.01
    max_grad_norm: PositiveFloat = 1.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: NonNegativeInt = 0
    warmup_ratio: Fraction = 0.0  # of all optimiser steps, in place of warmup_steps
    min_ratio: Fraction = 0.0

    @model_validator(mode="after")
    def _effective(self) -> Optimiser:
        if self.schedule == "constant":
            remedy = "remove it, or set schedule to cosine or linear"
            refuse_unread(self, "with schedule='constant', which never falls", "min_ratio", remedy=remedy)
        return self

    @model_validator(mode="after")
    def _one_warmup(self) -> Optimiser:
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} and warmup_ratio={self.warmup_ratio} say the same; set one of them"
            )
        return self


class Sharding(Record):
    """How the trained parameters lie on the ranks."""

    ranks: PositiveInt | None = None  # ranks that share one copy, on one node say; others hold copies. None: all ranks
    cpu_offload: bool = False  # shards, gradients and optimiser in host memory; the step runs on the CPU


class Learner(Record):
    """How a batch becomes optimiser steps. Rows are trajectories."""

    optimiser: Optimiser = Optimiser()
    epochs: PositiveInt = 1
    mini_batches: PositiveInt = 1  # optimiser steps per epoch over one batch
    # Of one forward pass of one rank. With micro_batch_tokens, rows are not limited unless they are set too.
    micro_batch_rows: PositiveInt | None = 16
    micro_batch_tokens: PositiveInt | None = None
    layout: Literal["padded", "packed"] = "padded"
    sharding: Sharding = Sharding()
    compile: bool = False  # torch.compile of every block; GPUs only
    max_kl: PositiveFloat | None = None  # a step is skipped if its mean KL to the reference is above
    max_ratio: PositiveFloat | None = None  # or if the mean ratio of its probabilities to those before the update is
    max_nonfinite_steps: NonNegativeInt = 5  # steps skipped in a row, for these or not finite, before the run stops

    @property
    def micro_batches(self) -> MicroBatches:
        """The limits of one forward pass."""
        return MicroBatches(self.micro_batch_rows, self.micro_batch_tokens, packed=self.layout == "packed")

    @model_validator(mode="before")
    @classmethod
    def _tokens_instead(cls, given: Any) -> Any:
        if isinstance(given, dict) and cast("dict[str, Any]", given).get("micro_batch_tokens") is not None:
            return {"micro_batch_rows": None, **cast("dict[str, Any]", given)}
        return given

    @model_validator(mode="after")
    def _limited(self) -> Learner:
        if self.micro_batch_rows is None and self.micro_batch_tokens is None:
            raise ValueError("micro_batch_rows=null without micro_batch_tokens limits nothing; set one of them")
        return self


class Critic(Learner):
    """The value network of advantage 'gae': a backbone like the policy's with one number per token as its output.

    Type, attention, adapters and frozen parts are those of the model section; the rest is as for the learner.
    """

    path: str | None = None  # backbone to start from, same family and tokenizer; None: model.path
    optimiser: Optimiser = Optimiser(lr=1e-5)
    value_clip: PositiveFloat | None = None  # how far one batch may move a value, in units of reward; None: no bound
    pretrain_steps: NonNegativeInt = 0  # training steps in which the critic learns and the policy does not
