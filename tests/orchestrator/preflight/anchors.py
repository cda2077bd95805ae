"""Steps whose speed others have published, as questions to the cost model: docs/performance.md has both.

What was published is not all that a step is made of. The rest is assumed here, and said on the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.preflight.step_cost import EngineLimits, Machine, Question, RoleSplit, Shape, estimate, utilisation
from policy.network.footprint import GIB, sizes_of
from policy.network.hardware import GPUS
from policy.network.operations import rates_of
from policy.tiny.model import build_tiny
from schemas.config import Lora, Model
from tests.policy.real_sizes import write_qwen3_4b, write_sizes

# 2,000 tokens/s on each of 8 GPUs for 120 s are 750 tokens for each of 2,560 samples: assumed 126 of text, an image of
# 504 x 504 pixels, a reply of 300; 512 tasks; four optimiser steps, as EasyR1's example configuration has.
EASYR1 = Shape(
    tasks=512,
    samples=5,
    prompt_text=126,
    reply=300,
    opening=((1, 36, 36),),
    shown=(),
    pixels=504**2,
    micro=16384,
    mini_batches=4,
)
# Text alone: assumed sequences of 2,048 tokens, half of them trained.
PRIME = Shape(tasks=256, samples=1, prompt_text=1024, reply=1024, opening=(), shown=(), pixels=0, micro=16384)
H100 = Machine(GPUS["H100"], memory=79 * GIB)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Tokens a second and GPU, MFU in per cent, and seconds of a step."""

    tokens: float
    mfu: float
    seconds: float


def easyr1(folder: Path, size: str) -> Prediction:
    """A whole step, the roles taking turns on 8 GPUs."""
    model = Model(path=str(write_sizes(build_tiny(folder), size)), dtype="bfloat16", gradient_checkpointing=True)
    question = Question(rates_of(model), sizes_of(model), EASYR1, EngineLimits(1024, 0.6), H100)
    cost = estimate(question, RoleSplit(8, 8, references=8, shared=True, rewards=8, nccl=True))
    tokens = EASYR1.trajectories * EASYR1.length(question.rates)
    return Prediction(tokens / cost.step / 8, 100 * utilisation(question, cost), cost.step)


def prime_rl(folder: Path) -> Prediction:
    """The trainer alone: an update on one GPU."""
    model = Model(
        path=str(write_qwen3_4b(build_tiny(folder, "qwen3_vl"))),
        dtype="bfloat16",
        gradient_checkpointing=True,
        lora=Lora(rank=16),
    )
    question = Question(rates_of(model), sizes_of(model), PRIME, EngineLimits(256, 0.5), H100, adapters=True)
    cost = estimate(question, RoleSplit(1, 1, shared=True))
    tokens = PRIME.trajectories * PRIME.length(question.rates)
    return Prediction(tokens / cost.update, 100 * utilisation(question, cost), cost.update)
