"""Whether what a run needs is there: processors, memory and disk.

Bytes are estimated from below (weights, gradients, optimiser, key-value blocks): activations come on top.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from orchestrator.problems import Problem
from schemas.config import DType, SftConfig, TrainConfig

GIB = 2**30
_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Node:
    """One machine: logical CPUs and GPUs.

    >>> Node("here", 8, 1).gpus
    1
    """

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Need:
    """`count` processes of a role, each with so much of a machine.

    >>> Need("learner", "resources.learner_ranks", 2, 4.0, 1.0).count
    2
    """

    role: str
    field: str
    count: int
    cpus: float
    gpus: float


def needs_of(config: TrainConfig | SftConfig) -> list[Need]:
    """What each role asks for."""
    r = config.resources
    learner = Need("learner", "resources.learner_ranks", r.learner_ranks, r.cpus_per_learner, r.gpus_per_learner)
    if isinstance(config, SftConfig):
        return [learner]
    needs = [
        Need("rollout", "resources.rollout_engines", r.rollout_engines, r.cpus_per_engine, r.gpus_per_engine),
        learner,
    ]
    if config.critic is not None:
        needs.append(Need("critic", "resources.critic_ranks", r.critic_ranks, r.cpus_per_critic, r.gpus_per_critic))
    if config.starts_reference:
        field = "resources.reference_replicas"
        needs.append(Need("reference", field, r.reference_replicas, r.cpus_per_reference, r.gpus_per_reference))
    return needs


def check_placement(needs: Sequence[Need], nodes: Sequence[Node]) -> list[Problem]:
    """Roles that find no room, the largest processes placed first, each on the first machine that it fits.

    Ray may pack otherwise, but where this fails on totals or on a single process, Ray would wait for ever.
    """
    free = [[node.cpus, node.gpus] for node in nodes]
    problems: list[Problem] = []
    for need in sorted(needs, key=lambda n: (n.gpus, n.cpus), reverse=True):
        placed = 0
        for _ in range(need.count):
            seat = next((n for n in free if n[0] >= need.cpus and n[1] >= need.gpus), None)
            if seat is None:
                break
            seat[0] -= need.cpus
            seat[1] -= need.gpus
            placed += 1
        if placed < need.count:
            cluster = ", ".join(f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes)
            problems.append(
                Problem(
                    need.field,
                    need.count,
                    f"only {placed} processes of {need.cpus:g} CPUs and {need.gpus:g} GPUs fit beside the other roles "
                    f"({cluster}); lower resources.*, or add machines",
                )
            )
    return problems


def this_machine(config: TrainConfig | SftConfig) -> Node:
    """What a local cluster would offer: its logical CPUs are as many as the roles reserve, see cluster.connect."""
    return Node("this machine", max(os.cpu_count() or 1, config.resources.total_cpus + 2), torch.cuda.device_count())


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
    root = Path(config.run.folder) / config.run.name
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
