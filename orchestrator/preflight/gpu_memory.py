"""The memory plan: what every role needs of its GPU, printed at the start and refused where it is too much."""

from __future__ import annotations

from dataclasses import dataclass

from policy.network.footprint import (
    Sizes,
    critic_memory,
    described,
    engine_memory,
    learner_memory,
    reference_memory,
    total,
)
from schemas.config import TrainConfig
from schemas.config_file import ConfigError

REMEDY = {
    "rollout": "raise rollout.engine.gpu_memory_utilization or tensor_parallel_size, or lower max_model_len",
    "learner": "add learner ranks, lower learner.micro_batch_tokens or micro_batch_rows, or set "
    "model.gradient_checkpointing, model.lora, model.freeze_vision or learner.sharding.cpu_offload",
    "critic": "add critic ranks, lower critic.micro_batch_tokens or micro_batch_rows, or set "
    "critic.sharding.cpu_offload",
    "reference": "lower learner.micro_batch_tokens or micro_batch_rows, or set algorithm.kl.coefficient=0",
}


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """Bytes by part on each GPU of a role, and its share of that GPU."""

    role: str
    gpus: float
    parts: dict[str, float]


def memory_plan(config: TrainConfig, sizes: Sizes) -> tuple[RoleMemory, ...]:
    """Every role that computes on a GPU."""
    r = config.resources
    plans = [
        RoleMemory("rollout", r.gpus_per_engine, engine_memory(sizes, config)),
        RoleMemory("learner", r.gpus_per_learner, learner_memory(sizes, config)),
    ]
    if config.starts_reference:
        plans.append(RoleMemory("reference", r.gpus_per_reference, reference_memory(sizes, config)))
    if config.critic:
        plans.append(RoleMemory("critic", r.gpus_per_critic, critic_memory(sizes, config, config.critic)))
    return tuple(plan for plan in plans if plan.gpus)


def memory_table(plans: tuple[RoleMemory, ...]) -> str:
    """The plan as lines of text; an estimate."""
    return "\n".join(f"GPU memory   {plan.role:9}  {described(plan.parts)}" for plan in plans)


def refuse_memory(config: TrainConfig, plans: tuple[RoleMemory, ...]) -> None:
    """Raises ConfigError where a GPU of resources.gpu_memory_gib cannot hold its roles. Without that, nothing is known.

    An engine needs its weights and the cache of one sequence within its part of the GPU; roles with a share of a GPU
    are taken to share one.
    """
    room = config.resources.gpu_memory_gib
    if room is None:
        return
    engine = config.rollout.engine
    needs: dict[str, float] = {}
    for plan in plans:
        needs[plan.role] = total(plan.parts)
        if plan.role == "rollout":
            least = total(plan.parts | {"KV cache": plan.parts["KV cache"] / engine.max_num_seqs})
            needs[plan.role] = engine.gpu_memory_utilization * room
            if least > needs[plan.role]:
                raise ConfigError(
                    f"rollout: weights and one sequence need {least:.1f} GiB, and gpu_memory_utilization="
                    f"{engine.gpu_memory_utilization} of {room:g} GiB is {needs[plan.role]:.1f}; {REMEDY[plan.role]}"
                )
    for plan in plans:
        if needs[plan.role] > room:
            raise ConfigError(
                f"{plan.role}: {described(plan.parts)}, and resources.gpu_memory_gib={room:g}; {REMEDY[plan.role]}"
            )
    shared = {plan.role: needs[plan.role] for plan in plans if plan.gpus < 1}
    if sum(shared.values()) > room:
        parts = " + ".join(f"{role} {need:.1f}" for role, need in shared.items())
        raise ConfigError(
            f"roles that share a GPU need {parts} = {sum(shared.values()):.1f} GiB, and resources.gpu_memory_gib="
            f"{room:g}; lower rollout.engine.gpu_memory_utilization, or {REMEDY['learner']}"
        )
