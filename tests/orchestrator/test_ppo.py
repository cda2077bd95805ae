"""PPO with a critic through the whole loop, on two critic ranks: it learns alone, then beside the policy."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from orchestrator.preflight.critic_settings import backbone_problems, pretrain_problems
from orchestrator.preflight.problem import refuse
from orchestrator.train_run import run_training
from policy.state.checkpoint import is_complete
from policy.tiny.model import build_tiny
from schemas.config import TrainConfig
from schemas.config.file import ConfigError
from tests.small_run import small_run

SHIPPED = Path(__file__).parents[2] / "models" / "tiny"


def configured(scenes: Path, folder: Path, **other: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "rollout": {"tasks_per_step": 8, "samples_per_task": 2},
        "algorithm": {"advantage": "gae", "kl": {"coefficient": 0.01, "place": "reward", "estimator": "k1"}},
        "learner": {"mini_batches": 2},
        "critic": {"optimiser": {"lr": 1e-3}, "mini_batches": 2, "epochs": 2, "value_clip": 2.0, "pretrain_steps": 1},
        "checkpoint": {"every": 1, "keep": 1},
        "resources": {"critic": {"count": 2}},
    }
    return TrainConfig.model_validate(small_run(scenes, folder, run={"name": "ppo"}, **(settings | other)))


@pytest.mark.cluster
def test_two_steps_of_ppo(scenes: Path, tmp_path: Path) -> None:
    outcome = run_training(configured(scenes, tmp_path))
    records = [json.loads(line) for line in outcome.folder.metrics.read_text().splitlines()]
    alone, together = (r for r in records if r["kind"] == "train")
    for record in (alone, together):
        assert all(v is not None and math.isfinite(v) for v in record.values() if not isinstance(v, str))
        assert (record["critic/optimiser_steps"], record["critic/skipped"]) == (4, 0)
        assert record["critic/grad_norm"] > 0
        assert 0 <= record["critic/clip_fraction"] <= 1
    assert alone["learner/optimiser_steps"] == 0
    assert "learner/loss" not in alone
    assert alone["critic/explained_variance"] == pytest.approx(0, abs=1e-6)  # it has not learned, and says 0 of all
    assert alone["critic/return_mean"] == pytest.approx(alone["critic/value_mean"], abs=1.0)  # but finds the scale
    assert alone["critic/return_mean"] > 2
    assert (together["learner/optimiser_steps"], together["learner/skipped"]) == (2, 0)
    assert together["learner/mismatch_max"] < 1e-3  # the policy that the critic watched is the one that was sampled
    assert together["critic/explained_variance"] != 0
    start, end = load_file(SHIPPED / "model.safetensors"), load_file(outcome.folder.export / "model.safetensors")
    assert start.keys() == end.keys(), "nothing of the critic is exported"
    assert any(not torch.equal(start[name].float(), end[name]) for name in start)
    kept = sorted(p.name for p in outcome.folder.checkpoints.iterdir())
    assert kept == ["step-000002", "step-000002.critic"]
    assert all(is_complete(outcome.folder.checkpoints / name) for name in kept)


def test_a_critic_that_cannot_work_is_refused_before_ray_starts(scenes: Path, tmp_path: Path) -> None:
    assert [*pretrain_problems(configured(scenes, tmp_path), total_steps=2)] == []
    assert [*backbone_problems(configured(scenes, tmp_path))] == []
    with pytest.raises(ConfigError, match=r"critic\.pretrain_steps=1: leaves none of the run's 1 steps"):
        refuse(pretrain_problems(configured(scenes, tmp_path), total_steps=1))
    other = str(build_tiny(tmp_path / "other", "qwen3_vl"))
    with pytest.raises(ConfigError, match=r"critic\.path=.*: has family"):
        refuse(backbone_problems(configured(scenes, tmp_path, critic={"path": other})))
    with pytest.raises(ValidationError, match="'gae' does not form by group"):
        configured(scenes, tmp_path, algorithm={"advantage": "gae", "adaptive": {}})
    with pytest.raises(ValidationError, match="the gae section has no effect: advantage 'grpo' reads no values"):
        configured(scenes, tmp_path, algorithm={"gae": {"lam": 1.0}}, critic=None)
