"""Whether the reward service will start: its function, and the token that it asks its callers for."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.preflight.problem import Problem
from schemas.config.service import ServiceOptions
from services.reward.custom import open_reward
from services.reward.scoring import ScoringError


def reward_problems(reward: ServiceOptions) -> Iterator[Problem]:
    """Loads the user's function in a process of its own, as the service will; looks for the service's token."""
    if reward.function is not None:
        try:
            open_reward(reward).close()
        except ScoringError as error:
            yield Problem("reward.function", reward.function, str(error).splitlines()[0], "correct it")
    if reward.port is not None and reward.token_env is not None and not os.environ.get(reward.token_env):
        yield Problem("reward.token_env", reward.token_env, "that environment variable is not set", "export the token")
