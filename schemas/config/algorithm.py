"""The RL method."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from schemas.config.effect import refuse_unread
from schemas.config.kl import Kl
from schemas.config.loss import Loss
from schemas.config.method import DynamicSampling, Gae, Mismatch, Overlong
from schemas.config.types import Fraction
from schemas.task import Record

# What each advantage compares and reads; tests hold it against the estimators themselves.
BY_GROUP = frozenset({"grpo", "dr_grpo", "grpo_passk", "rloo"})  # by group: what adaptive weights scale
NEEDS_GROUPS = BY_GROUP | {"reinforce_plus_plus_baseline"}  # of one sample every advantage would be 0
DISCOUNTS = frozenset({"gae", "reinforce_plus_plus"})  # reads gamma
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
    def _effective(self) -> Adaptive:
        if self.mapping != "power":
            refuse_unread(self, f"with mapping={self.mapping!r}", "power", remedy="remove it, or set mapping='power'")
        if self.mapping != "log":
            refuse_unread(self, f"with mapping={self.mapping!r}", "log_alpha", remedy="remove it, or set mapping='log'")
        if self.statistic != "entropy":
            because = f"with statistic={self.statistic!r}"
            refuse_unread(self, because, "entropy_bins", remedy="remove it, or set statistic='entropy'")
        if self.baseline == "batch":
            refuse_unread(self, "with baseline='batch', which keeps no average", "momentum", "initial")
        return self

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

    @model_validator(mode="after")
    def _adaptive_weights_scale_groups(self) -> Algorithm:
        if self.adaptive is not None and self.advantage not in BY_GROUP:
            raise ValueError(
                f"adaptive weighting scales a group's advantages, which advantage {self.advantage!r} does not form by "
                f"group; choose from {', '.join(sorted(BY_GROUP))}, or remove adaptive"
            )
        return self

    @model_validator(mode="after")
    def _advantage_reads_its_options(self) -> Algorithm:
        if self.gamma is not None and self.advantage not in DISCOUNTS:
            raise ValueError(
                f"gamma={self.gamma} has no effect: advantage {self.advantage!r} does not discount; remove it"
            )
        if self.gae is not None and self.advantage != "gae":
            raise ValueError(
                f"the gae section has no effect: advantage {self.advantage!r} reads no values; remove it, or set "
                "advantage='gae'"
            )
        return self
