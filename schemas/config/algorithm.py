"""The RL method."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from schemas.config.kl import Kl
from schemas.config.loss import Loss
from schemas.config.method import DynamicSampling, Gae, Mismatch, Overlong
from schemas.config.types import Fraction
from schemas.task import Record

Advantage = Literal[
    "grpo", "dr_grpo", "grpo_passk", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "remax", "gae"
]


class Adaptive(Record):
    """Variance-weighted advantages; the field names follow docs/algorithms.md."""

    statistic: Literal["variance", "std", "range", "entropy"] = "variance"
    mapping: Literal["sqrt", "linear", "power", "log"] = "sqrt"
    baseline: Literal["moving_average", "batch"] = "moving_average"
    momentum: Fraction = 0.95
    initial: PositiveFloat | None = None  # None: start from the first batch
    eps: PositiveFloat = 1e-6
    clip_min: NonNegativeFloat = 0.3
    clip_max: PositiveFloat = 3.0
    normalize: bool = False
    power: PositiveFloat = 0.5
    log_alpha: PositiveFloat = 1.0
    entropy_bins: Annotated[int, Field(ge=2)] = 5

    @model_validator(mode="after")
    def _clip_order(self) -> Adaptive:
        if self.clip_min > self.clip_max:
            raise ValueError(f"clip_min={self.clip_min} is above clip_max={self.clip_max}; swap them")
        return self


class Algorithm(Record):
    """The RL method."""

    advantage: Advantage = "grpo"
    gamma: Fraction | None = None  # discount per sampled token where the advantage has one; None: 1
    gae: Gae | None = None  # None: the defaults, where the advantage is 'gae'
    adaptive: Adaptive | None = None
    loss: Loss = Loss()
    kl: Kl = Kl()
    mismatch: Mismatch | None = None
    dynamic_sampling: DynamicSampling | None = None
    overlong: Overlong | None = None
    mask_truncated: bool = False  # no loss on trajectories that a limit of tokens cut
