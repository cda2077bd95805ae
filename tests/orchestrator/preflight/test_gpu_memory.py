"""The memory plan: what is printed, and what is refused where a GPU is too small."""

from typing import Any

from orchestrator.preflight.gpu_memory import gpu_memory_problems, memory_table
from orchestrator.preflight.role_memory import RoleMemory
from policy.network.footprint import GIB, MIB
from schemas.config import TrainConfig


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
    return RoleMemory("rollout", 1, gpus, {"weights": 10.0 * GIB, "KV cache": 100.0 * GIB})


def learner(gpus: float = 1, activations: float = 20) -> RoleMemory:
    return RoleMemory("learner", 1, gpus, {"weights": 30.0 * GIB, "activations": activations * GIB})


def test_the_table() -> None:
    assert memory_table((engine(), learner())).splitlines() == [
        "GPU memory   rollout    weights 10.0 + KV cache 100.0 = 110.0 GiB",
        "GPU memory   learner    weights 30.0 + activations 20.0 = 50.0 GiB",
    ]


def test_a_part_that_is_too_small_for_the_unit_is_not_shown_as_nothing() -> None:
    small = RoleMemory("learner", 1, 1.0, {"weights": 3.0 * GIB, "logits": 3.0 * MIB})
    assert memory_table((small,)).endswith("weights 3.0 + logits 3.0 MiB = 3.0 GiB")
    tiny = RoleMemory("learner", 1, 1.0, {"weights": 3.5 * MIB, "activations": 0.0})
    assert memory_table((tiny,)).endswith("weights 3.5 = 3.5 MiB")


def test_what_fits_is_let_through() -> None:
    assert found(config(), engine(), learner()) == []  # a full cache is not needed: vLLM takes 40 of 80
    assert found(config(gib=None), engine(), learner(activations=500)) == []
    assert found(config(utilization=0.3), engine(0.5), learner(0.5)) == []  # 24 + 50
    assert found(config(), RoleMemory("learner", 1, 0.0, {"weights": 900.0 * GIB})) == []  # on no GPU


def found(config: TrainConfig, *plans: RoleMemory) -> list[str]:
    return [str(problem) for problem in gpu_memory_problems(config, plans)]


def test_what_does_not_fit_is_named_with_a_remedy() -> None:
    [large] = found(config(), engine(), learner(activations=60))
    assert large.startswith("resources.gpu_memory_gib=80.0: learner: weights 30.0 + activations 60.0 = 90.0 GiB; add")
    [small] = found(config(utilization=0.2), engine(), learner())
    assert "one sequence need 20.0 GiB, and gpu_memory_utilization=0.2 of 80 GiB is 16.0; raise rollout" in small
    [shared] = found(config(), engine(0.5), learner(0.5))
    assert "share a GPU need rollout 40.0 + learner 50.0 = 90.0 GiB; lower rollout" in shared
    assert len(found(config(utilization=0.2), engine(), learner(activations=60))) == 2  # all at once
