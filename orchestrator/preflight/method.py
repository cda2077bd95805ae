"""Whether the parts of the configured method work together."""

from __future__ import annotations

from algorithms.estimators import refuse
from schemas.config import TrainConfig
from schemas.config.file import ConfigError


def refuse_ineffective(config: TrainConfig) -> None:
    """Raises ConfigError for a method whose parts do not work together; see algorithms.estimators.refuse."""
    algorithm = config.algorithm
    reasons = refuse(
        advantage=algorithm.advantage,
        loss=algorithm.loss.name,
        samples_per_task=config.rollout.samples_per_task,
        adaptive=algorithm.adaptive is not None,
        kl_loss=algorithm.kl.estimator if config.uses_reference and algorithm.kl.place == "loss" else None,
        gamma_set=algorithm.gamma is not None,
        gae_set=algorithm.gae is not None,
    )
    if reasons:
        raise ConfigError("\n".join(f"algorithm: {reason}" for reason in reasons))
