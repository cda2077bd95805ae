"""Which GPUs a run has, as far as its settings or the cluster say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.roles.placement import Node
from policy.network.hardware import GPUS, TERA, GpuRates
from schemas.config import SftResources


def gpu_of(resources: SftResources, nodes: Sequence[Node]) -> GpuRates | None:
    """The rates of one GPU: of the kind that is set, else of the one kind that the nodes have. None where unknown."""
    kinds = {node.gpu_kind for node in nodes if node.gpus}
    kind = resources.gpu_kind or (kinds.pop() if len(kinds) == 1 else None)
    known = next((rates for name, rates in GPUS.items() if name == kind), None)
    if known is None or resources.gpu_peak_tflops is None:
        return known
    return replace(known, operations=resources.gpu_peak_tflops * TERA)


def peak_of(resources: SftResources, nodes: Sequence[Node]) -> float | None:
    """Dense bfloat16 operations a second of one GPU: those that are set, else its kind's. None where unknown."""
    if resources.gpu_peak_tflops is not None:
        return resources.gpu_peak_tflops * TERA
    found = gpu_of(resources, nodes)
    return found.operations if found else None
