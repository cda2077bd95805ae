"""The kind of a run's GPUs: as set, as the cluster says, or not known."""

from typing import Any, get_args

import pytest

from orchestrator.roles.gpus import gpu_of, peak_of
from orchestrator.roles.placement import Node, nodes_of
from policy.network.hardware import GPUS, TERA, GpuRates
from schemas.config import SftResources
from schemas.config.resources import GpuKind


def resources(**settings: Any) -> SftResources:
    return SftResources.model_validate({"learner": {"gpus": 1}} | settings)


def node(kind: str | None, gpus: int = 8) -> Node:
    return Node("a", 8, (1.0,) * gpus, gpu_kind=kind)


def test_every_kind_that_can_be_set_has_its_rates() -> None:
    assert set(get_args(GpuKind)) == GPUS.keys()
    for rates in GPUS.values():
        # A product of two numbers per byte read: no GPU is so slow or so fast.
        assert 100 < rates.operations / rates.memory < 600
        assert rates.link < rates.memory


def test_the_cluster_says_what_it_has() -> None:
    mixed = [node("H100"), node(None, gpus=0)]
    assert gpu_of(resources(), mixed) == GPUS["H100"]
    assert peak_of(resources(), mixed) == 989.4 * TERA
    for unknown in ([], [node(None)], [node("H100"), node("A100")], [node("T4")]):
        assert gpu_of(resources(), unknown) is None
        assert peak_of(resources(), unknown) is None


def test_a_setting_comes_before_it() -> None:
    assert gpu_of(resources(gpu_kind="H200"), [node("H100")]) == GPUS["H200"]
    assert peak_of(resources(gpu_peak_tflops=121), [node("T4")]) == 121 * TERA
    assert gpu_of(resources(gpu_peak_tflops=121), [node("T4")]) is None  # of its memory nothing is known
    slowed = gpu_of(resources(gpu_kind="H100", gpu_peak_tflops=500), [])
    assert slowed == GpuRates(500 * TERA, GPUS["H100"].memory, GPUS["H100"].link)


def test_ray_names_the_kind_as_a_resource() -> None:
    listed = {"Alive": True, "NodeManagerAddress": "a", "Labels": {}}
    (found,) = nodes_of([listed | {"Resources": {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0}}])
    assert found == Node("a", 8, (1.0, 1.0), gpu_kind="H100")


@pytest.mark.parametrize("setting", [{"gpu_kind": "H100"}, {"gpu_peak_tflops": 100}])
def test_without_gpus_their_kind_has_no_effect(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no effect where no role has a GPU; remove it"):
        SftResources.model_validate(setting)
