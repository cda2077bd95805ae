"""Whether this machine has what a run needs: processors, memory and disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import torch

from orchestrator.preflight.problem import Problem
from orchestrator.preflight.role_memory import RoleMemory
from orchestrator.roles.cluster import logical_cpus
from orchestrator.roles.placement import Node
from orchestrator.run_folder.folder import run_folder
from policy.network.footprint import Sizes, checkpoint_bytes, export_bytes, in_units
from schemas.config import SftConfig, TrainConfig


def this_machine(config: TrainConfig | SftConfig) -> Node:
    """What a local cluster would offer: as many logical CPUs as the roles reserve, on the cores that there are."""
    return Node(
        "this machine",
        logical_cpus(config.resources),
        (1.0,) * torch.cuda.device_count(),
        cores=os.cpu_count(),
    )


def host_memory_problems(config: TrainConfig | SftConfig, plans: Sequence[RoleMemory]) -> tuple[Problem, ...]:
    """On one machine without GPUs: whether its memory holds what all processes keep from step to step.

    Activations come on top: the need is an estimate from below.
    """
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    need = sum(plan.lasting for plan in plans)
    if need <= have:
        return ()
    named = ", ".join(f"{plan.role} {in_units(plan.lasting)}" for plan in plans)
    reason = f"weights and states alone need {in_units(need)} ({named}), and the machine has {in_units(have)} of memory"
    remedy = "use a smaller model, model.lora, fewer processes or GPUs"
    return (Problem("model.path", config.model.path, reason, remedy),)


def disk_problems(config: TrainConfig | SftConfig, sizes: Sizes) -> tuple[Problem, ...]:
    """Whether the run folder can be written and its disk holds the checkpoints that are kept, and one being written."""
    root = run_folder(config.run).root
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        what = "cannot be written" if existing.is_dir() else "is a file"
        return (Problem("run.folder", config.run.folder, f"{existing} {what}", "choose another folder"),)
    options, train = config.checkpoint, config if isinstance(config, TrainConfig) else None
    each = checkpoint_bytes(sizes, config.learner)
    if train is not None and train.critic is not None:
        each += checkpoint_bytes(sizes, train.critic)
    kept = options.keep + 1 + (1 if train is not None and options.keep_best else 0)
    need = each * kept + export_bytes(sizes, config.model)
    free = shutil.disk_usage(existing).free
    if need <= free:
        return ()
    reason = f"{kept} checkpoints of {in_units(each)} and the export need {in_units(need)}, and {existing} has "
    remedy = "lower checkpoint.keep, or set run.folder to a place on a larger disk"
    return (Problem("checkpoint.keep", options.keep, f"{reason}{in_units(free)} free", remedy),)
