"""Every loss and every advantage that the configuration offers, through the whole loop."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest

from orchestrator.training import refuse_ineffective, run_training
from schemas.config import Advantage, LossName, TrainConfig
from schemas.config_file import ConfigError

METHODS: list[tuple[Advantage, LossName, str]] = [  # and where the reference's term stands
    ("grpo", "ppo_clip", "none"),
    ("dr_grpo", "gspo", "none"),
    ("grpo_passk", "cispo", "none"),
    ("rloo", "sapo", "none"),
    ("reinforce_plus_plus", "gspo_token", "reward"),
    ("reinforce_plus_plus_baseline", "cispo", "none"),
    ("remax", "ppo_clip", "none"),
]

KL: dict[str, dict[str, Any]] = {
    "none": {"coefficient": 0.0},
    "reward": {"coefficient": 0.05, "place": "reward", "estimator": "k1"},
}


def configured(model: str, scenes: Path, folder: Path, **algorithm: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run": {"folder": str(folder)},
            "model": {"path": model},
            "data": {
                "train_files": str(scenes / "train.jsonl"),
                "validation_files": str(scenes / "validation.jsonl"),
                "prompt_style": "short",
                "min_pixels": 12544,
                "max_pixels": 12544,
            },
            "rollout": {
                "tasks_per_step": 2,
                "samples_per_task": 2,
                "max_tokens_per_turn": 16,
                "engine": {"max_model_len": 160},
            },
            "algorithm": {"kl": KL["none"]} | algorithm,
            "learner": {"optimiser": {"lr": 1e-3}, "mini_batches": 2},  # the second step's ratio is not 1
            "validation": {"before": False, "samples": 1, "greedy": False, "limit": 1},
            "resources": {"object_store_bytes": 2**28},
            "trainer": {"max_steps": 2, "samples_to_log": 0},
        }
    )


def test_every_method_is_among_them() -> None:
    assert {advantage for advantage, *_ in METHODS} == set(get_args(Advantage))
    assert {loss for _, loss, _ in METHODS} == set(get_args(LossName))


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(("advantage", "loss", "place"), METHODS)
def test_it_trains(tiny_model: str, scenes: Path, tmp_path: Path, advantage: str, loss: str, place: str) -> None:
    method: dict[str, Any] = {"advantage": advantage, "loss": {"name": loss}, "kl": KL[place]}
    outcome = run_training(configured(tiny_model, scenes, tmp_path, **method))
    records = [json.loads(line) for line in outcome.folder.metrics.read_text().splitlines()]
    train = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in train] == [0, 1]
    for record in train:
        numbers = [value for value in record.values() if not isinstance(value, str)]
        assert all(value is not None and math.isfinite(value) for value in numbers)
        assert record["learner/optimiser_steps"] == 2
        assert record["learner/skipped"] == 0
        assert record["learner/mismatch_max"] < 1e-4
        assert record["learner/trained_tokens"] == record["reply/trained_tokens"] <= 2 * 2 * 2 * 16  # no greedy reply
    assert len(pq.read_table(outcome.folder.root / "samples" / "step-000002.parquet")) == 1


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        ({"advantage": "remax", "adaptive": {}}, "'remax' does not form by group"),
        ({"advantage": "reinforce_plus_plus", "adaptive": {}}, "not form by group"),
        ({"advantage": "rloo", "gamma": 1.0}, "gamma has no effect"),
        ({"advantage": "reinforce_plus_plus_baseline", "gamma": 0.9}, "gamma has no effect"),
        ({"kl": {"coefficient": 0.1, "estimator": "k1"}}, "expected gradient of 0"),
    ],
)
def test_parts_that_do_not_work_together_are_refused(tmp_path: Path, algorithm: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        refuse_ineffective(configured("m", tmp_path, tmp_path, **algorithm))


def test_methods_that_work_are_not_refused(tmp_path: Path) -> None:
    for advantage, loss, place in METHODS:
        refuse_ineffective(configured("m", tmp_path, tmp_path, advantage=advantage, loss={"name": loss}, kl=KL[place]))
    refuse_ineffective(configured("m", tmp_path, tmp_path, advantage="reinforce_plus_plus", gamma=0.9))
