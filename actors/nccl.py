"""Weights between GPUs: vLLM's own NCCL transfer, with the learner as sender and the rollout actors as receivers.

    learner rank 0 --NCCL broadcast--> every engine worker       (the other ranks take part in gathering)
                   --Receivers--> start, update, finish            (explicit calls to the rollout actors)

Runs only where learner and engines have GPUs of their own; object_store is the way everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import torch
from torch.distributed.tensor import DTensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

from actors.group import ask
from actors.rollout import RolloutActor
from policy.network.forward import PolicyModule
from policy.state.sharding import named_weights

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Receivers:
    """The rollout actors as vLLM's trainer side sees them: each call reaches all of them and waits."""

    actors: tuple[Any, ...]
    workers_each: int  # tensor-parallel size
    timeout_s: float  # of each call

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Gives each engine's workers their place behind the sender in the NCCL group."""
        first = init_info["rank_offset"]
        self._all(
            RolloutActor.init_transfer,
            [{**init_info, "rank_offset": first + i * self.workers_each} for i in range(len(self.actors))],
        )

    def start_weight_update(self) -> None:
        """Every engine expects weights."""
        self._all(RolloutActor.transfer, ["start_weight_update"] * len(self.actors))

    def update_weights(self, update_info: Any) -> None:
        """Every engine receives what the sender broadcasts meanwhile."""
        given = {"update_info": update_info}
        self._wait([ask(actor, RolloutActor.transfer, "update_weights", given) for actor in self.actors])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Every engine takes the weights into use."""
        self._all(RolloutActor.transfer, ["finish_weight_update"] * len(self.actors))

    def _all(self, method: Callable[[RolloutActor, T], object], arguments: Sequence[T]) -> None:
        self._wait([ask(actor, method, one) for actor, one in zip(self.actors, arguments, strict=True)])

    def _wait(self, refs: Sequence[Any]) -> None:
        ray.get(refs, timeout=self.timeout_s)


class PolicySource(WeightSource):
    """The policy's weights by Hugging Face name, gathered one by one; a tied lm_head is among them."""

    def __init__(self, policy: PolicyModule, dtype: torch.dtype) -> None:
        self._policy = policy
        self._dtype = dtype

    def metadata(self) -> list[ParamMeta]:
        """Name, type on the wire and full shape of every weight, without gathering."""
        return [ParamMeta(name, self._dtype, tuple(w.shape)) for name, w in named_weights(self._policy).items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole weights in the order of `metadata`; a collective, so every rank iterates."""
        for name, weight in named_weights(self._policy).items():
            whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
            yield name, whole.detach().to(self._dtype).contiguous()


def open_sender(
    source: PolicySource, engines: Receivers, *, rank: int, host: str, port: int
) -> NCCLTrainerWeightTransferEngine:
    """Connects all learner ranks and engines; called on every rank. `send_weights()` of the result publishes."""
    info = NCCLTrainerInitInfo(
        master_address=host,
        master_port=port,
        world_size=1 + len(engines.actors) * engines.workers_each,
        rank=rank,
    )
    return NCCLTrainerWeightTransferEngine.trainer_init(info, client=engines, source=source)
