"""What every role of a run needs of memory, role by role: read by the checks of GPUs and of the machine."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.roles.placement import role_plans
from policy.network.footprint import (
    LASTING,
    Sizes,
    critic_memory,
    engine_memory,
    learner_memory,
    reference_memory,
)
from schemas.config import SftConfig, TrainConfig


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """Equal processes of a role: how many, the share of a GPU that each has, and its bytes by part.

    >>> RoleMemory("learner", 2, 0.0, {"weights": 8.0, "activations": 100.0}).lasting
    16.0
    """

    role: str
    count: int
    gpus: float
    parts: dict[str, float]

    @property
    def each(self) -> float:
        """Bytes of one process."""
        return sum(self.parts.values())

    @property
    def lasting(self) -> float:
        """Bytes that all processes keep from step to step: activations come and go."""
        return self.count * sum(size for part, size in self.parts.items() if part in LASTING)


def memory_plan(config: TrainConfig | SftConfig, sizes: Sizes) -> tuple[RoleMemory, ...]:
    """Every role that holds a model."""
    parts = {"learner": learner_memory(sizes, config)}
    if isinstance(config, TrainConfig):
        parts["rollout"] = engine_memory(sizes, config)
        parts["reference"] = reference_memory(sizes, config)
        if config.critic is not None:
            parts["critic"] = critic_memory(sizes, config, config.critic)
    plans = role_plans(config)
    return tuple(RoleMemory(p.role, p.count, p.gpus, parts[p.role]) for p in plans if p.role in parts)
