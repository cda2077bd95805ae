"""The estimate of a configuration's step, as lines beside the memory plan; and what to do about a bad split of GPUs.

    TrainConfig + Sizes + GpuRates --question_of, layout_of--> step_cost.estimate, .better --> lines

What no configuration says of its data is assumed: one image a look, as large as data.max_pixels allows, and so many
tokens of text. The lines say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.preflight.gpu_memory import gpu_memory_problems
from orchestrator.preflight.role_memory import memory_plan
from orchestrator.preflight.step_cost import (
    EngineLimits,
    Machine,
    Question,
    RoleSplit,
    Shape,
    StepCost,
    better,
    estimate,
    utilisation,
)
from orchestrator.roles.gpus import gpu_of
from orchestrator.roles.placement import Node
from policy.network.footprint import GIB, Sizes, forward_tokens
from policy.network.hardware import GpuRates
from policy.network.operations import Rates, rates_of
from policy.network.positions import Grid
from schemas.config import TrainConfig

TEXT_TOKENS = 400  # of prompt and observation together, with data.prompt_style=detailed
REPLY_SHARE = 0.25  # of max_turns x max_tokens_per_turn that a trajectory samples
WAITS_LONG = 0.75  # of a step; a side that waits longer is told of
WORTH = 0.1  # of a step, that another split must save to be suggested


def question_of(config: TrainConfig, rates: Rates, sizes: Sizes, gpu: GpuRates, grid: int) -> Question:
    """What `config` asks of GPUs in a step. `grid` is the side of a visual token of the model's family, in pixels."""
    rollout, learner, memory = config.rollout, config.learner, config.resources.gpu_memory_gib
    side = math.isqrt(config.data.max_pixels) // grid * rates.merge
    image: tuple[Grid, ...] = ((1, side, side),)
    micro = forward_tokens(config, learner)
    assert micro is not None, "known of every TrainConfig"
    return Question(
        rates=rates,
        sizes=sizes,
        shape=Shape(
            tasks=rollout.tasks_per_step,
            samples=rollout.samples_per_task,
            prompt_text=TEXT_TOKENS,
            reply=max(1, int(REPLY_SHARE * rollout.max_turns * rollout.max_tokens_per_turn)),
            opening=image,
            shown=image if rollout.max_turns > 1 else (),
            pixels=(side // rates.merge * grid) ** 2,
            micro=micro,
            epochs=learner.epochs,
            mini_batches=learner.mini_batches,
            critic_epochs=config.critic.epochs if config.critic else 1,
        ),
        engine=EngineLimits(rollout.engine.max_num_seqs, rollout.engine.gpu_memory_utilization),
        machine=Machine(gpu, None if memory is None else memory * GIB),
        adapters=config.model.lora is not None,
    )


def layout_of(config: TrainConfig) -> RoleSplit:
    """The GPUs of each role of `config`. Roles with a share of a GPU take turns on it."""
    roles = config.resources
    shares = [role.gpus for role in (roles.rollout, roles.learner) if role.gpus]
    return RoleSplit(
        engines=roles.rollout.count,
        learners=roles.learner.count,
        references=roles.reference.count if config.starts_reference else 0,
        critics=roles.critic.count if config.critic else 0,
        parallel=config.rollout.engine.tensor_parallel_size,
        shards=config.learner.sharding.ranks,
        parts=config.rollout.shards_per_engine,
        rewards=config.reward.replicas,
        shared=any(share < 1 for share in shares),
        nccl=roles.weight_transfer == "nccl",
    )


def step_table(config: TrainConfig, sizes: Sizes, nodes: Sequence[Node], grid: int) -> str:
    """The estimate as lines of text, or why there is none; "" on CPUs, of which no rates are known.

    `grid` is that of the model's family, in pixels.
    """
    if not (config.resources.rollout.gpus and config.resources.learner.gpus):
        return ""
    gpu = gpu_of(config.resources, nodes)
    why = _unknown(config, gpu)
    if gpu is None or why:
        return f"step         not estimated: {why}"
    question = question_of(config, rates_of(config.model), sizes, gpu, grid)
    cost = estimate(question, layout_of(config))
    return "\n".join((_parts(cost), _rates(question, cost), *_waits(cost), *advice(config, question, cost)))


def _unknown(config: TrainConfig, gpu: GpuRates | None) -> str | None:
    if config.model.dtype != "bfloat16" or config.rollout.engine.dtype != "bfloat16":
        return "rates are known in bfloat16 alone"
    if config.learner.sharding.cpu_offload:
        return "learner.sharding.cpu_offload depends on the host's memory"
    return None if gpu else "the kind of GPU is not known; set resources.gpu_kind"


def advice(config: TrainConfig, question: Question, cost: StepCost) -> tuple[str, ...]:
    """What to do about a split into roles that leaves GPUs waiting; () where it is as good as another."""
    best = better(question, cost.layout, lambda other: _possible(config, question.sizes, other))
    saved = 1 - best.step / cost.step
    if saved > WORTH:
        counts = " ".join(f"resources.{role}.count={count}" for role, count in _counts(best.layout).items() if count)
        return (f"warning      a step would take {best.step:.0f} s, {saved:.0%} less, with {counts}",)
    if max(cost.idle) > WAITS_LONG:
        return (
            "warning      one side waits most of a step, and no split of these GPUs does better: use fewer, or let the "
            "roles share them (resources.ROLE.gpus below 1)",
        )
    return ()


def _parts(cost: StepCost) -> str:
    layout, beside = cost.layout, []
    for name, count, seconds in (
        ("reference", layout.references, cost.reference),
        ("critic's values", layout.critics, cost.values),
        ("scoring", layout.rewards, cost.scoring),
    ):
        if count:
            beside.append(f"{name} {seconds:.1f}")
    return (
        f"step         {cost.step:.0f} s, estimated: rollout {cost.rollout:.0f} + {cost.wait:.0f} beyond it "
        f"({', '.join(beside)}) + update {cost.update:.0f} + publish {cost.publish:.0f}"
    )


def _rates(question: Question, cost: StepCost) -> str:
    shape, layout = question.shape, cost.layout
    tokens = shape.length(question.rates)
    gpus = max(layout.engines, layout.learners) if layout.shared else layout.gpus
    rate = shape.trajectories * tokens / cost.step / gpus
    return (
        f"             for {shape.trajectories} trajectories of {tokens} tokens, {shape.reply} of them sampled "
        f"(assumed): {rate:,.0f} tok/s/GPU, MFU {utilisation(question, cost):.0%}"
    )


def _waits(cost: StepCost) -> tuple[str, ...]:
    """How long either side has nothing to do; () where they share their GPUs."""
    if cost.layout.shared:
        return ()
    engines, learner = cost.idle
    return (
        f"             {cost.layout.engines * cost.layout.parallel} GPU(s) of the engines wait {engines:.0%} of it, "
        f"{cost.layout.learners} GPU(s) of the learner {learner:.0%}",
    )


def _counts(layout: RoleSplit) -> dict[str, int]:
    """Processes by role."""
    return {
        "rollout": layout.engines,
        "learner": layout.learners,
        "reference": layout.references,
        "critic": layout.critics,
    }


def _possible(config: TrainConfig, sizes: Sizes, layout: RoleSplit) -> bool:
    """Whether a configuration with that split would be accepted, and its roles fit in their GPUs."""
    counts, roles = _counts(layout), config.resources.roles
    changed = {role: roles[role].model_copy(update={"count": count}) for role, count in counts.items() if count}
    resources = config.resources.model_copy(update=changed)
    try:
        other = TrainConfig.model_validate(config.model_copy(update={"resources": resources}).model_dump())
    except ValueError:  # a rule of the configuration: batches that do not divide, copies that are not whole
        return False
    return not gpu_memory_problems(other, memory_plan(other, sizes))
