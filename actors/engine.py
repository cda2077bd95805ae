"""What a rollout actor needs of an engine: one Protocol. vLLM stands behind it in actors/vllm_engine.py.

    add(Request) ... step() -> [Completion, ...]      requests join and leave at every step: no barrier between turns
    load_weights({name: array}, version)              replaces the model and forgets what the old one computed

Everything here assumes one caller in one thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL.Image import Image

from pointing import tool
from schemas.config import Sampling


@dataclass(frozen=True, slots=True)
class Request:
    """One turn to sample. `prompt_ids` holds one placeholder per image; `digests` identify the images' content.

    >>> Request("0-0", (1, 2), (), (), Sampling(), max_tokens=8).stop
    '</tool_call>'
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    images: tuple[Image, ...]
    digests: tuple[str, ...]
    sampling: Sampling
    max_tokens: int
    stop: str = tool.CLOSE
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished turn: sampled ids with the log-probability each had in the distribution it was drawn from.

    `prompt_tokens` is how long the prompt was with every image as the engine expanded it.
    """

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str  # "stop" or "length"
    prompt_tokens: int


class Engine(Protocol):
    """What a rollout actor needs of an engine."""

    def add(self, request: Request) -> None:
        """Queues a request."""
        ...

    def step(self) -> list[Completion]:
        """Advances every running request by one iteration; returns those that finished."""
        ...

    def busy(self) -> bool:
        """True while a request is unfinished."""
        ...

    def load_weights(self, weights: Mapping[str, np.ndarray], version: int) -> None:
        """Replaces the whole model, or its adapters, by Hugging Face names; forgets everything the old one computed."""
        ...

    def forget(self) -> None:
        """Drops what is kept of earlier requests, so that the next ones are computed as on a fresh engine."""
        ...

    def abort(self, request_ids: Sequence[str]) -> None:
        """Drops these requests; those that are finished or unknown are left aside."""
        ...

    def abort_all(self) -> None:
        """Drops every unfinished request."""
        ...
