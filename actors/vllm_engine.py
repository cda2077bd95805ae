"""vLLM's synchronous engine behind the Engine protocol. Only this file and actors/nccl.py import vLLM.

Weights arrive through vLLM's native weight-transfer API with a backend of our own: arrays from the object store in the
engine's own process, or the path of a safetensors file where its workers are processes of their own (arrays nested in
a message arrive there as lists).
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

# Read when vLLM is imported: the engine runs in this process, and its log keeps to what matters.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

import numpy as np
import torch
from torch._C._distributed_c10d import FileStore
from torch.distributed import distributed_c10d
from vllm import RequestOutput, SamplingParams
from vllm.config import VllmConfig, WeightTransferConfig
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.logprobs import Logprob
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.sample.logits_processor import LogitsProcessor

from actors.engine import Completion, Request
from policy.state.adapters import KeptBase
from schemas.config import EngineOptions, Model

# The CPU build's worker warns twice of each request that it will not change its threads.
logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)

BACKEND = "pointvg_object_store"
FORBIDDEN = "pointvg_forbidden_ids"


class VllmEngine:
    """vLLM in this process (world size 1), or with worker processes of its own (tensor parallelism)."""

    def __init__(
        self,
        model_path: str,
        config: EngineOptions,
        *,
        forbidden_ids: Sequence[int],
        max_images: int,
        pixels: tuple[int, int],
        seed: int,
        trust_remote_code: bool = False,
        transfer: Literal["object_store", "nccl"] = "object_store",
        adapted: Model | None = None,
    ) -> None:
        """`adapted` is the model whose adapters will arrive in place of whole weights; None without adapters."""
        self._in_process = config.tensor_parallel_size == 1
        self._running: set[str] = set()
        if torch.cuda.is_available():
            memory: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_utilization}
        else:
            memory = {"kv_cache_memory_bytes": config.kv_cache_bytes, "block_size": config.block_size}
        if not self._in_process:
            # Left to itself, vLLM finds the placement group that this actor is in and wants a bundle for each GPU.
            memory["distributed_executor_backend"] = "mp"
            # The CPU build would bind each worker to a NUMA node of its own, of which a small machine has one.
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model_path,
                dtype=config.dtype,
                seed=seed,
                max_model_len=config.max_model_len,
                max_num_seqs=config.max_num_seqs,
                tensor_parallel_size=config.tensor_parallel_size,
                enforce_eager=config.enforce_eager,
                limit_mm_per_prompt={"image": max_images, "video": 0},
                # Those of the data, not the checkpoint's: what the learner sees must not be resized here.
                mm_processor_kwargs={"size": {"shortest_edge": pixels[0], "longest_edge": pixels[1]}},
                mm_processor_cache_gb=config.image_cache_gib,
                # The log-probability in the distribution that was sampled from: after temperature, top-p and the mask.
                logprobs_mode="processed_logprobs",
                logits_processors=[ForbidTokens],
                additional_config={FORBIDDEN: list(forbidden_ids)},
                weight_transfer_config=WeightTransferConfig(backend=BACKEND if transfer == "object_store" else "nccl"),
                trust_remote_code=trust_remote_code,
                disable_log_stats=True,
                **memory,
            )
        )
        self._engine.collective_rpc(_drop_rendezvous)
        self._base = None if adapted is None else KeptBase(adapted)
        if transfer == "object_store":
            self.init_transfer({"adapted": None if adapted is None else adapted.model_dump()})

    def add(self, request: Request) -> None:
        """Queues a request; image content is identified by its digest, so that vLLM need not hash pixels."""
        prompt: Any = {"prompt_token_ids": list(request.prompt_ids)}
        if request.images:
            prompt["multi_modal_data"] = {"image": list(request.images)}
            prompt["multi_modal_uuids"] = {"image": list(request.digests)}
        parameters = SamplingParams(
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            top_k=request.sampling.top_k,
            max_tokens=request.max_tokens,
            logprobs=0,
            stop=[request.stop],
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            seed=request.seed,
        )
        self._engine.add_request(request.request_id, prompt, parameters)
        self._running.add(request.request_id)

    def step(self) -> list[Completion]:
        """One iteration of continuous batching."""
        finished: list[Completion] = []
        for output in self._engine.step():
            if isinstance(output, RequestOutput) and output.finished:
                self._running.discard(output.request_id)
                turn = output.outputs[0]
                ids = tuple(int(i) for i in turn.token_ids)
                assert turn.finish_reason is not None
                entries = cast(list[dict[int, Logprob]], turn.logprobs)  # asked for in every request
                logprobs = tuple(float(entry[i].logprob) for entry, i in zip(entries, ids, strict=True))
                finished.append(
                    Completion(output.request_id, ids, logprobs, turn.finish_reason, len(output.prompt_token_ids or ()))
                )
        return finished

    def busy(self) -> bool:
        """True while a request is unfinished."""
        return self._engine.has_unfinished_requests()

    def abort(self, request_ids: Sequence[str]) -> None:
        """Drops these requests; those that are finished or unknown are left aside."""
        running = self._running.intersection(request_ids)
        self._engine.abort_request(list(running))
        self._running -= running

    def abort_all(self) -> None:
        """Drops every unfinished request."""
        self.abort(tuple(self._running))

    def load_weights(self, weights: Mapping[str, np.ndarray], version: int) -> None:
        """Replaces the whole model by Hugging Face names, or what its adapters change, from the checkpoint's weights.

        Raises RuntimeError while requests run, ValueError for adapters of another model; the engine is then as it was.
        """
        if self.busy():
            raise RuntimeError(f"weights of version {version} arrived while {len(self._running)} requests were running")
        if self._base is not None:
            self._base.check(weights)  # once the update has begun, the old weights are gone
        with _handed_over(weights, in_process=self._in_process) as update_info:
            self.transfer("start_weight_update")
            try:
                self.transfer("update_weights", {"update_info": update_info})
            finally:
                self.transfer("finish_weight_update")
        self.took(version)

    def init_transfer(self, init_info: dict[str, Any]) -> None:
        """Connects the weight-transfer backend of every worker."""
        self._engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": init_info})

    def transfer(self, call: str, arguments: dict[str, Any] | None = None) -> None:
        """One call of vLLM's weight-transfer protocol, on every worker."""
        self._engine.collective_rpc(call, kwargs=arguments or {})

    def took(self, version: int) -> None:
        """Names the weights now in use and forgets what the old ones computed."""
        self._engine.set_weight_version(str(version))
        self.forget()  # both caches hold results of the old weights

    def forget(self) -> None:
        """Empties the caches of key-value blocks of prompts and of embeddings of images."""
        self._engine.reset_prefix_cache()
        self._engine.reset_encoder_cache()


def _drop_rendezvous(_worker: object) -> None:
    """Deletes the file through which the workers found each other: a killed process could not, and all have met."""
    store: Any = distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage] (no public way)
    while isinstance(store, distributed_c10d.PrefixStore):
        store = store.underlying_store
    if isinstance(store, FileStore):
        Path(cast(Any, store).path).unlink(missing_ok=True)


class ForbidTokens(LogitsProcessor):
    """No request ever samples a vision placeholder or an id without a token.

    A sampled placeholder would be expanded into an image that does not exist. The learner masks the same ids.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        ids = cast(dict[str, list[int]], vllm_config.additional_config)[FORBIDDEN]
        self._ids = torch.tensor(ids, dtype=torch.long, device=device)

    def is_argmax_invariant(self) -> bool:
        """False: a forbidden id may be the most likely one."""
        return False

    def update_state(self, batch_update: object) -> None:
        """Treats every request alike, so keeps no state."""

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Sets the forbidden columns of logits [requests, vocabulary] to minus infinity."""
        logits[:, self._ids] = float("-inf")
        return logits


@dataclass
class _InitInfo(WeightTransferInitInfo):
    """The settings of a model whose adapters will arrive; None where whole weights do."""

    adapted: dict[str, Any] | None = None


@dataclass
class _UpdateInfo(WeightTransferUpdateInfo):
    """The whole model or all its adapters, as arrays or as a safetensors file."""

    weights: Mapping[str, np.ndarray] | None = None
    path: str | None = None


class ObjectStoreTransfer(WeightTransferEngine[_InitInfo, _UpdateInfo]):
    """vLLM weight-transfer backend for weights that come through Ray's object store."""

    init_info_cls = _InitInfo
    update_info_cls = _UpdateInfo

    def init_transfer_engine(self, init_info: _InitInfo) -> None:
        """Opens the weights that adapters will be merged into; no connection is needed."""
        self._base = None if init_info.adapted is None else KeptBase(Model.model_validate(init_info.adapted))

    def start_weight_update(self) -> None:
        """Weights arrive in checkpoint format: vLLM re-runs its loading hooks layer by layer."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As the base class, without synchronising an accelerator that a CPU build does not have."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def receive_weights(self, update_info: _UpdateInfo) -> None:
        """Loads one update into the model."""
        load = cast(Any, self.model).load_weights
        if update_info.path is not None:
            from safetensors.torch import load_file

            weights = load_file(update_info.path)
        else:
            weights = {name: _shared(array) for name, array in (update_info.weights or {}).items()}
        if self._base is None:
            load(weights.items())
        else:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            load(self._base.merged(weights, self.model_config.dtype, device))

    def finish_weight_update(self) -> None:
        """Finalises the layers."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Holds nothing."""


if BACKEND not in WeightTransferEngineFactory._registry:  # pyright: ignore[reportPrivateUsage] (no public way)
    WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreTransfer)


@contextmanager
def _handed_over(weights: Mapping[str, np.ndarray], *, in_process: bool) -> Generator[dict[str, Any]]:
    """What the engine takes: the arrays, or the path of a file that lives as long as the context."""
    if in_process:
        yield {"weights": weights}
        return
    from safetensors.numpy import save_file

    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.NamedTemporaryFile(dir=folder, prefix="pointvg-weights-", suffix=".safetensors") as file:
        save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, file.name)
        yield {"path": file.name}


def _shared(array: np.ndarray) -> torch.Tensor:
    """A tensor over the array's memory, which may be the read-only object store: the loader only reads it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)
