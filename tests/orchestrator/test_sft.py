"""Stage 1 through Ray Train on two ranks, from transcripts to an exported model; and its continuation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.sft import run_sft
from schemas.config import SftConfig

pytestmark = pytest.mark.cluster


def configured(model: str, scenes: Path, folder: Path, **trainer: int) -> SftConfig:
    values: dict[str, Any] = {
        "run": {"name": "sft", "folder": str(folder)},
        "model": {"path": model},
        "data": {
            "train_files": str(scenes / "train.jsonl"),
            "prompt_style": "short",
            "min_pixels": 12544,
            "max_pixels": 12544,
        },
        "learner": {"optimiser": {"lr": 2e-3}},
        "checkpoint": {"every": 2},
        "resources": {"learner": {"count": 2}, "object_store_bytes": 2**27},
        "trainer": {"batch_rows": 8, **trainer},
    }
    return SftConfig.model_validate(values)


def test_supervised_training_lowers_the_loss_and_continues(tiny_model: str, scenes: Path, tmp_path: Path) -> None:
    folder = run_sft(configured(tiny_model, scenes, tmp_path, samples=32))
    assert folder.steps() == [2, 4]
    run_sft(configured(tiny_model, scenes, tmp_path, samples=48))
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [r["step"] for r in records] == [0, 1, 2, 3, 4, 5]
    losses = [r["learner/loss"] for r in records]
    assert losses[0] > 5  # near uniform over 448 ids
    assert losses[-1] < 0.85 * losses[0]
    start, end = load_file(Path(tiny_model) / "model.safetensors"), load_file(folder.export / "model.safetensors")
    assert start.keys() == end.keys()
    assert not any(torch.equal(start[name], end[name]) for name in start)
