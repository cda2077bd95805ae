"""Whether the GPUs hold their roles: the estimate is printed at the start, and refused where it is too much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.preflight.problem import Problem
from orchestrator.preflight.role_memory import RoleMemory
from policy.network.footprint import GIB, described
from schemas.config import SftConfig, TrainConfig

FIELD = "resources.gpu_memory_gib"
REMEDY = {
    "rollout": "raise rollout.engine.gpu_memory_utilization or tensor_parallel_size, or lower max_model_len",
    "learner": "add learner ranks, lower learner.micro_batch_tokens or micro_batch_rows, or set "
    "model.gradient_checkpointing, model.lora, model.freeze_vision or learner.sharding.cpu_offload",
    "critic": "add critic ranks, lower critic.micro_batch_tokens or micro_batch_rows, or set "
    "critic.sharding.cpu_offload",
    "reference": "lower learner.micro_batch_tokens or micro_batch_rows, or set algorithm.kl.coefficient=0",
}


def memory_table(plans: Sequence[RoleMemory]) -> str:
    """The roles on GPUs as lines of text, one process each; an estimate. "" without such roles."""
    return "\n".join(f"GPU memory   {plan.role:9}  {described(plan.parts)}" for plan in plans if plan.gpus)


def gpu_memory_problems(config: TrainConfig | SftConfig, plans: Sequence[RoleMemory]) -> tuple[Problem, ...]:
    """Where a GPU of resources.gpu_memory_gib cannot hold its roles. Without that setting, nothing is known.

    An engine needs its weights and the cache of one sequence within its part of the GPU; roles with a share of a GPU
    are taken to share one.
    """
    room = config.resources.gpu_memory_gib
    if room is None:
        return ()
    on_gpus = [plan for plan in plans if plan.gpus]
    alone = tuple(problem for plan in on_gpus for problem in _alone(config, plan, room))
    return alone or tuple(_together(config, on_gpus, room))


def _alone(config: TrainConfig | SftConfig, plan: RoleMemory, room: float) -> Iterator[Problem]:
    """A role that does not fit even by itself."""
    if plan.role == "rollout" and isinstance(config, TrainConfig):
        engine = config.rollout.engine
        least = (plan.parts["weights"] + plan.parts["KV cache"] / engine.max_num_seqs) / GIB
        granted = engine.gpu_memory_utilization * room
        if least > granted:
            reason = (
                f"rollout: weights and one sequence need {least:.1f} GiB, and gpu_memory_utilization="
                f"{engine.gpu_memory_utilization} of {room:g} GiB is {granted:.1f}"
            )
            yield Problem(FIELD, room, reason, REMEDY["rollout"])
    elif plan.each > room * GIB:
        yield Problem(FIELD, room, f"{plan.role}: {described(plan.parts)}", REMEDY[plan.role])


def _together(config: TrainConfig | SftConfig, plans: Sequence[RoleMemory], room: float) -> Iterator[Problem]:
    """Roles that fit one by one, and not on the GPU that they share."""
    needs = {plan.role: plan.each / GIB for plan in plans if plan.gpus < 1}
    if isinstance(config, TrainConfig) and "rollout" in needs:
        needs["rollout"] = config.rollout.engine.gpu_memory_utilization * room  # vLLM takes all that it may
    if sum(needs.values()) > room:
        parts = " + ".join(f"{role} {need:.1f}" for role, need in needs.items())
        reason = f"roles that share a GPU need {parts} = {sum(needs.values()):.1f} GiB"
        yield Problem(FIELD, room, reason, f"lower rollout.engine.gpu_memory_utilization, or {REMEDY['learner']}")
