"""Whether the critic can work with the policy: it reads the policy's ids, and leaves the policy steps of its own."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.preflight.problem import Problem
from policy.learning.critic import refuse_backbone
from schemas.config import TrainConfig
from schemas.config.file import SettingError


def backbone_problems(config: TrainConfig) -> Iterator[Problem]:
    """A critic that could not read the policy's ids; none without a critic. Reads no weights."""
    if config.critic is not None:
        try:
            refuse_backbone(config.model, config.critic)
        except SettingError as error:
            yield Problem.of(error)


def pretrain_problems(config: TrainConfig, total_steps: int) -> Iterator[Problem]:
    """A critic that leaves the policy none of the run's steps."""
    if config.critic is not None and config.critic.pretrain_steps >= total_steps:
        reason = f"leaves none of the run's {total_steps} steps to the policy"
        yield Problem("critic.pretrain_steps", config.critic.pretrain_steps, reason, "lower it, or train longer")
