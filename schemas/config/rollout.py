"""How episodes are played: sampling, the engine, how many."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from schemas.config.types import DType
from schemas.task import Record


class Sampling(Record):
    """How tokens are drawn. top_k 0 means no limit."""

    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: NonNegativeInt = 0

    @property
    def truncated(self) -> bool:
        """True when some tokens can never be drawn although the policy gives them probability."""
        return self.top_p != 1.0 or self.top_k != 0


def sampling_of(samples: int, temperature: float | None = None) -> Sampling:
    """How the answers to one question are drawn: one greedily, several so that they differ where the model is unsure.

    `temperature` in place of that: 0 is greedy.

    >>> sampling_of(8).temperature
    0.6
    """
    chosen = (0.0 if samples == 1 else 0.6) if temperature is None else temperature
    return Sampling(temperature=chosen, top_p=0.95 if chosen else 1.0)


class EngineOptions(Record):
    """vLLM. Sizes are per engine."""

    dtype: DType = "float32"
    max_model_len: PositiveInt = 4096
    max_num_seqs: PositiveInt = 256
    kv_cache_bytes: PositiveInt = 256 * 1024 * 1024  # used by the CPU build
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6
    block_size: PositiveInt = 32
    tensor_parallel_size: PositiveInt = 1
    enforce_eager: bool = True
    image_cache_gib: NonNegativeFloat = 0.25


class Rollout(Record):
    """How episodes are played in training."""

    tasks_per_step: PositiveInt = 32
    samples_per_task: PositiveInt = 8
    sampling: Sampling = Sampling()
    max_turns: PositiveInt = 2
    max_tokens_per_turn: PositiveInt = 512
    shards_per_engine: PositiveInt = 2  # smaller shards reach the reward and the reference earlier
    engine: EngineOptions = EngineOptions()
