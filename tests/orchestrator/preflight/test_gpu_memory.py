"""The memory plan: what is printed, and what is refused where a GPU is too small."""

from typing import Any

import pytest

from orchestrator.preflight.gpu_memory import RoleMemory, memory_table, refuse_memory
from policy.network.footprint import GIB
from schemas.config import TrainConfig
from schemas.config_file import ConfigError


def config(utilization: float = 0.5, gib: float | None = 80.0) -> TrainConfig:
    values: dict[str, Any] = {
        "model": {"path": "m"},
        "data": {"train_files": "a"},
        "rollout": {"engine": {"gpu_memory_utilization": utilization, "max_num_seqs": 10}},
        "trainer": {"max_steps": 1},
        "resources": {"gpu_memory_gib": gib},
    }
    return TrainConfig.model_validate(values)


def engine(gpus: float = 1) -> RoleMemory:
    return RoleMemory("rollout", gpus, {"weights": 10.0 * GIB, "KV cache": 100.0 * GIB})


def learner(gpus: float = 1, activations: float = 20) -> RoleMemory:
    return RoleMemory("learner", gpus, {"weights": 30.0 * GIB, "activations": activations * GIB})


def test_the_table() -> None:
    assert memory_table((engine(), learner())).splitlines() == [
        "GPU memory   rollout    weights 10.0 + KV cache 100.0 = 110.0 GiB",
        "GPU memory   learner    weights 30.0 + activations 20.0 = 50.0 GiB",
    ]


def test_what_fits_is_let_through() -> None:
    refuse_memory(config(), (engine(), learner()))  # a full cache is not needed: vLLM takes 40 of 80
    refuse_memory(config(gib=None), (engine(), learner(activations=500)))
    refuse_memory(config(utilization=0.3), (engine(0.5), learner(0.5)))  # 24 + 50


def test_what_does_not_fit_is_named_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"learner: .*= 90\.0 GiB, and .*gpu_memory_gib=80; add learner ranks"):
        refuse_memory(config(), (engine(), learner(activations=60)))
    with pytest.raises(ConfigError, match=r"one sequence need 20\.0 GiB, and gpu_memory_utilization=0\.2 of 80 GiB is"):
        refuse_memory(config(utilization=0.2), (engine(), learner()))
    with pytest.raises(ConfigError, match=r"share a GPU need rollout 40\.0 \+ learner 50\.0 = 90\.0 GiB"):
        refuse_memory(config(), (engine(0.5), learner(0.5)))
