"""Whether this machine has what a run needs: processors, memory and disk.

Bytes are estimated from below (weights, gradients, optimiser, key-value blocks): activations come on top.
"""

from __future__ import annotations

import os
import shutil

import torch

from orchestrator.preflight.problem import Problem
from orchestrator.roles.placement import Node
from orchestrator.run_folder.folder import run_folder
from schemas.config import DType, SftConfig, TrainConfig

GIB = 2**30
_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2}


def this_machine(config: TrainConfig | SftConfig) -> Node:
    """What a local cluster would offer: its logical CPUs are as many as the roles reserve, see cluster.connect."""
    cpus = max(os.cpu_count() or 1, config.resources.total_cpus + 2)
    return Node("this machine", cpus, (1.0,) * torch.cuda.device_count())


def check_memory(config: TrainConfig | SftConfig, parameters: int) -> list[Problem]:
    """On one machine without GPUs: whether its memory holds every process's weights and states."""
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    parts = memory_of(config, parameters)
    if sum(parts.values()) <= have:
        return []
    named = ", ".join(f"{role} {size / GIB:.1f}" for role, size in parts.items())
    return [
        Problem(
            "model.path",
            config.model.path,
            f"the machine has {have / GIB:.1f} GiB of memory and weights and states alone need "
            f"{sum(parts.values()) / GIB:.1f} ({named}); use a smaller model, model.lora, fewer processes or GPUs",
        )
    ]


def memory_of(config: TrainConfig | SftConfig, parameters: int) -> dict[str, float]:
    """Bytes of each role over all of its processes: weights, and what it keeps beside."""
    trained = 0 if config.model.lora is not None else parameters  # adapters are small
    moments = 2 * _BYTES[config.learner.optimiser.state_dtype]
    base = parameters * _BYTES[config.model.dtype] * config.resources.learner_ranks if config.model.lora else 0
    parts = {"learner": float(base + trained * (4 + 4 + moments))}
    if isinstance(config, TrainConfig):
        engine, r = config.rollout.engine, config.resources
        blocks = 0 if r.gpus_per_engine else engine.kv_cache_bytes
        parts["rollout"] = float(r.rollout_engines * (parameters * _BYTES[engine.dtype] + blocks))
        if config.critic is not None:
            parts["critic"] = float(parameters * (4 + 4 + 2 * _BYTES[config.critic.optimiser.state_dtype]))
        if config.starts_reference:
            parts["reference"] = float(r.reference_replicas * parameters * _BYTES[config.model.dtype])
    return parts


def check_disk(config: TrainConfig | SftConfig, parameters: int) -> list[Problem]:
    """Whether the run folder can be written and its disk holds the checkpoints that are kept, and one being written."""
    root = run_folder(config.run).root
    existing = next(path for path in (root, *root.absolute().parents) if path.is_dir())
    if not os.access(existing, os.W_OK):
        return [Problem("run.folder", config.run.folder, f"{existing} cannot be written; choose another folder")]
    options = config.checkpoint
    moments = 2 * _BYTES[config.learner.optimiser.state_dtype]
    each = 0 if config.model.lora is not None else parameters * (4 + moments)
    if isinstance(config, TrainConfig) and config.critic is not None:
        each += parameters * (4 + 2 * _BYTES[config.critic.optimiser.state_dtype])
    kept = options.keep + 1 + (1 if isinstance(config, TrainConfig) and options.keep_best else 0)
    need = each * kept + parameters * _BYTES[config.model.dtype]
    free = shutil.disk_usage(existing).free
    if need <= free:
        return []
    return [
        Problem(
            "checkpoint.keep",
            options.keep,
            f"{kept} checkpoints of {each / GIB:.1f} GiB and the export need {need / GIB:.1f} GiB, {existing} has "
            f"{free / GIB:.1f} free; lower checkpoint.keep, or set run.folder",
        )
    ]
