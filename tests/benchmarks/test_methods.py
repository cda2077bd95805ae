"""The comparison of methods: what it runs is valid and what its names say, and its errors are right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.adaptive import AdaptiveState, weights
from algorithms.advantages import dr_grpo, grpo
from schemas.config import TrainConfig
from schemas.config.file import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def methods() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import methods as module
    finally:
        sys.path.pop(0)
    return module


def overrides(methods: ModuleType, name: str) -> list[str]:
    given = methods.command(methods.METHODS[name], 3, 31, Path("runs"))
    return given[given.index("--config") + 2 :]


def test_every_run_is_a_valid_configuration_of_its_own_method_and_equal_budget(methods: ModuleType) -> None:
    configs = {name: load(TrainConfig, methods.QUICKSTART, overrides(methods, name)).config for name in methods.METHODS}
    for config in configs.values():
        assert config.plan.trajectories * 31 == 7936
        assert (config.trainer.max_steps, config.run.seed) == (31, 3)
    assert configs["grpo"].algorithm.adaptive is None
    assert configs["adaptive"].algorithm == load(TrainConfig, methods.QUICKSTART).config.algorithm
    assert len({config.algorithm.model_dump_json() for config in configs.values()}) == len(configs)
    shared = {
        config.model_dump_json(exclude={"algorithm", "run", "critic", "resources"}) for config in configs.values()
    }
    assert len(shared) == 1  # nothing but the method differs


def test_the_scaled_dr_grpo_is_dr_grpo_over_one_standard_deviation(methods: ModuleType) -> None:
    config = load(TrainConfig, methods.QUICKSTART, overrides(methods, "dr_grpo_scaled")).config
    assert config.algorithm.adaptive is not None
    scores = torch.tensor([0.0, 9.0, 4.0, 5.0, 5.0, 5.5, 1.0, 1.0], dtype=torch.float64)
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    weight, _, _ = weights(scores, groups, AdaptiveState(2.5), config.algorithm.adaptive)
    expected = dr_grpo(scores, groups) * (3 / 4) ** 0.5 / 2.5**0.5
    torch.testing.assert_close(weight * grpo(scores, groups), expected, rtol=1e-5, atol=0)


def test_errors_by_hand(methods: ModuleType) -> None:
    """Two seeds, three tasks: differences 1 2 3 and 3 2 4. By task 2, 2, 3.5; by seed 2 and 3."""

    def played(values: list[float]) -> Any:
        return {"validation": {"reward": dict(zip("abc", values, strict=True))}}

    other = {1: played([0, 0, 0]), 2: played([1, 1, 1]), 9: played([5, 5, 5])}
    method = {1: played([1, 2, 3]), 2: played([4, 3, 5])}
    d = methods.difference(method, other, "validation", "reward")
    assert d.mean == pytest.approx(2.5)
    assert d.by_seed == pytest.approx((2, 3))
    assert d.over_tasks == pytest.approx(np.std([2, 2, 3.5], ddof=1) / 3**0.5)
    assert d.over_seeds == pytest.approx(0.5**0.5 / 2**0.5)
    assert d.resolved
    assert not methods.Difference(2.5, 1.0, 1.0, (2.0, 3.0)).resolved
    assert not methods.Difference(2.5, 0.1, 0.1, (-1.0, 6.0)).resolved
    assert not methods.Difference(2.5, 0.1, 0.0, (2.5,)).resolved


def test_the_page_says_what_is_and_is_not_resolved(methods: ModuleType, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)

    def played(gain: float) -> Any:
        return {
            setting: {metric: {f"t{i}": gain + float(noise.normal(0, 0.05)) for i in range(40)} for metric in metrics}
            for setting in methods.SETTINGS
            for metrics in [("reward", "object mIoU")]
        }

    (tmp_path / "start.json").write_text(json.dumps(played(0.0)))
    for name, gain in (("grpo", 0.0), ("adaptive", 0.0), ("rloo", -1.0)):
        for seed in (1, 2, 3):
            record = {
                "method": name,
                "seed": seed,
                "cpu_minutes": 5.0,
                "curve": {"reward/mean": [6.0, 6.5]},
                "test": played(gain),
                "versions": {"torch": "2"},
            }
            (tmp_path / f"{name}-{seed}.json").write_text(json.dumps(record))
    methods.report(tmp_path, tmp_path / "page.md", tmp_path / "plot.png")
    page = (tmp_path / "page.md").read_text()
    assert "2 steps of 32 tasks x 8 samples = 512 trajectories" in page
    assert "- `rloo`, 3 seeds, against `adaptive`: worse in reward at temperature 1 (-" in page
    assert "- `grpo`, 3 seeds, against `adaptive`: no difference is resolved in any column." in page
    assert page.count("| rloo | 3 | -") == 3
    assert (tmp_path / "plot.png").stat().st_size > 10_000
