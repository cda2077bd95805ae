"""run.deterministic: the same numbers and weights, bit for bit, run again or interrupted and continued."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.run_folder.folder import RunFolder
from orchestrator.sft import run_sft
from orchestrator.telemetry.metrics import MetricsLog
from orchestrator.train_run import run_training
from schemas.config import SftConfig, TrainConfig
from tests.small_run import scene_data, small_run

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

STEPS, CUT = 4, 2  # interrupted once the step of number CUT is done and logged, but not saved
LEARNER = {"optimiser": {"lr": 1e-3, "schedule": "cosine", "warmup_steps": 1}, "micro_batch_rows": 3}
# What sets a method apart. Learner and critic have two ranks, the rollouts two engines, the reference two replicas.
METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": {"adaptive": {}, "kl": {"coefficient": 0.05}}},
    "ppo": {
        "algorithm": {"advantage": "gae", "kl": {"coefficient": 0.05, "place": "reward", "estimator": "k1"}},
        "critic": LEARNER | {"mini_batches": 2, "value_clip": 1.0, "pretrain_steps": 1},
    },
}


def run_rl(method: str, model: str, scenes: Path, folder: Path) -> RunFolder:
    settings: dict[str, Any] = {
        "run": {"deterministic": True},
        "data": {"validation_files": str(scenes / "validation.jsonl")},
        "rollout": {"max_tokens_per_turn": 24, "engine": {"max_model_len": 192}},
        "learner": LEARNER,
        "validation": {"before": True, "after": True, "samples": 2, "limit": 3},
        "checkpoint": {"every": 2, "keep_best": True},
        "resources": {role: {"count": 2} for role in ("rollout", "learner", "reference")},
        "trainer": {"max_steps": STEPS},
    }
    if "critic" in METHODS[method]:
        settings["resources"]["critic"] = {"count": 2}
    return run_training(
        TrainConfig.model_validate(small_run(scenes, folder, model=model, **(settings | METHODS[method])))
    ).folder


def run_supervised(model: str, scenes: Path, folder: Path) -> RunFolder:
    values: dict[str, Any] = {
        "run": {"folder": str(folder), "deterministic": True},
        "model": {"path": model},
        "data": scene_data(scenes),
        "learner": LEARNER,
        "checkpoint": {"every": 2},
        "resources": {"learner": {"count": 2}, "object_store_bytes": 2**27},
        "trainer": {"samples": 8 * STEPS, "batch_rows": 8},
    }
    return run_sft(SftConfig.model_validate(values))


def records(folder: RunFolder) -> list[dict[str, Any]]:
    """Every record without its times."""
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith(("time", "pace"))} for line in lines]


def assert_equal(folder: RunFolder, expected: RunFolder) -> None:
    """The same records, each once, and the same weights."""
    assert [r["step"] for r in records(expected) if r["kind"] == "train"] == list(range(STEPS))
    assert records(folder) == records(expected)
    ours, theirs = load_file(folder.export / "model.safetensors"), load_file(expected.export / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Interrupted(Exception):
    """What stops a run at CUT."""


@pytest.mark.parametrize("method", METHODS)
def test_reinforcement_learning(
    method: str, tiny_model: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> RunFolder:
        return run_rl(method, tiny_model, scenes, tmp_path / name)

    straight = run("straight")
    last = [r for r in records(straight) if r["kind"] == "train"][-1]
    assert last["learner/kl"] > 0
    assert_equal(run("again"), straight)
    cut(run, monkeypatch)
    assert_equal(run("cut"), straight)


def cut(run: Callable[[str], RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs "cut" until the step of number CUT was logged."""
    write = MetricsLog.write

    def stop(log: MetricsLog, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        write(log, kind, step, numbers)
        if kind == "train" and step == CUT:
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(MetricsLog, "write", stop)
        with pytest.raises(Interrupted):
            run("cut")


def test_supervised_training(tiny_model: str, scenes: Path, tmp_path: Path) -> None:
    def run(name: str) -> RunFolder:
        return run_supervised(tiny_model, scenes, tmp_path / name)

    straight = run("straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "cut")
    for lost in ("checkpoints/step-000004", "export"):  # as if the run had ended before it could save
        shutil.rmtree(tmp_path / "cut" / "run" / lost)
    continued = run("cut")
    assert (continued.root / "aside.1" / "metrics.jsonl").read_text().count("\n") == 2
    assert_equal(continued, straight)
    assert_equal(run("again"), straight)
