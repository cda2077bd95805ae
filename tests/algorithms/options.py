"""Options for the mathematics alone: every field at once, in combinations that a configuration would refuse."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LossOptions:
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_dual: float | None = 3.0
    tau_positive: float = 1.0
    tau_negative: float = 1.05


@dataclass(frozen=True)
class AdaptiveOptions:
    statistic: Any = "variance"
    mapping: Any = "sqrt"
    baseline: Any = "moving_average"
    momentum: float = 0.95
    eps: float = 1e-6
    clip_min: float = 0.3
    clip_max: float = 3.0
    normalize: bool = False
    initial: float | None = None
    power: float = 0.5
    log_alpha: float = 1.0
    entropy_bins: int = 5
