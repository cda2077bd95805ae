"""Stage 1 through Ray Train on two ranks, from transcripts to an exported model; and its continuation."""

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from orchestrator.batch.tasks import read_split
from orchestrator.run_folder.folder import RunFolder
from orchestrator.sft import run_sft
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import read_info, read_tokenizer
from policy.conversation.transcripts import supervised, to_tables
from policy.learning.learner import PolicyLearner
from schemas.config import SftConfig
from tests.small_run import scene_data

pytestmark = pytest.mark.cluster


def configured(model: str, scenes: Path, folder: Path, **trainer: int) -> SftConfig:
    values: dict[str, Any] = {
        "run": {"name": "sft", "folder": str(folder)},
        "model": {"path": model},
        "data": scene_data(scenes, validation_files=str(scenes / "validation.jsonl")),
        "learner": {"optimiser": {"lr": 2e-3}},
        "checkpoint": {"every": 2},
        "resources": {"learner": {"count": 2}, "object_store_bytes": 2**27},
        "validation": {"every": 3, "limit": 5},
        "trainer": {"batch_rows": 8, **trainer},
    }
    return SftConfig.model_validate(values)


def held_out_loss(config: SftConfig, model: str) -> float:
    """By a learner of one process, a task at a time."""
    info, chat = read_info(model), ChatFormat(read_tokenizer(model))
    learner = PolicyLearner(
        config.model.model_copy(update={"path": model}), config.learner, None, total_steps=1, temperature=1
    )
    rows = [supervised(task, info, chat, config.data) for task in read_split(config, "validation")[:5]]
    total = 0.0
    for row in rows:
        table, images = to_tables([row], rank=0, micro_batches=config.learner.micro_batches, denominator=1.0)
        total -= float(learner.logprobs(table, [images])[0].sum())
    return total / sum(row.ledger.n_sampled for row in rows)


def test_supervised_training_lowers_the_loss_and_continues(
    tiny_model: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_sft(configured(tiny_model, scenes, tmp_path, samples=32))
    assert folder.steps() == [2, 4]
    config = configured(tiny_model, scenes, tmp_path, samples=48)
    run_sft(config)
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    validated = {r["step"]: r["loss"] for r in records if r["kind"] == "validation"}
    assert sorted(validated) == [0, 3, 4, 6]
    assert validated[0] == pytest.approx(held_out_loss(config, tiny_model), abs=1e-4)
    assert validated[6] == pytest.approx(held_out_loss(config, str(folder.export)), abs=1e-4)
    assert validated[6] < 0.85 * validated[0]
    shown = capsys.readouterr().out
    assert re.search(r"step +4/4  loss +[0-9.]+ +[0-9]+ tok/s", shown)
    assert f"validation at step 6: loss {validated[6]:.4f} on held-out transcripts" in shown
    records = [r for r in records if r["kind"] == "train"]
    assert [r["step"] for r in records] == [0, 1, 2, 3, 4, 5]
    losses = [r["learner/loss"] for r in records]
    batch = config.trainer.batch_rows
    assert [r["pace/samples_per_second"] for r in records] == pytest.approx([batch / r["time/step"] for r in records])
    assert losses[0] > 5  # near uniform over 448 ids
    assert losses[-1] < 0.85 * losses[0]
    start, end = load_file(Path(tiny_model) / "model.safetensors"), load_file(folder.export / "model.safetensors")
    assert start.keys() == end.keys()
    assert not any(torch.equal(start[name], end[name]) for name in start)


@pytest.mark.slow
def test_a_lost_rank_changes_no_number(tiny_model: str, scenes: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the run: all ranks come back from the last checkpoint, and end with the same bits."""
    quiet = run_sft(lasting(tiny_model, scenes, tmp_path / "quiet"))
    config = lasting(tiny_model, scenes, tmp_path / "hurt")
    killer = threading.Thread(target=kill_a_rank_after, args=(tmp_path / "hurt/sft/metrics.jsonl", 5), daemon=True)
    killer.start()
    hurt = run_sft(config)
    assert not killer.is_alive()
    losses = [losses_of(folder) for folder in (quiet, hurt)]
    assert losses[0] == losses[1]
    ours, theirs = (load_file(f.export / "model.safetensors") for f in (quiet, hurt))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert list(hurt.root.glob("aside.*"))  # steps that were made again


def losses_of(folder: RunFolder) -> dict[int, float]:
    records = map(json.loads, folder.metrics.read_text().splitlines())
    return {r["step"]: r["learner/loss"] for r in records if r["kind"] == "train"}


def lasting(model: str, scenes: Path, folder: Path) -> SftConfig:
    values = configured(model, scenes, folder, samples=8 * 12).model_dump()
    return SftConfig.model_validate(values | {"run": {"name": "sft", "folder": str(folder), "deterministic": True}})


def kill_a_rank_after(metrics: Path, step: int) -> None:
    """Waits until a step is logged, then kills one of Train's workers."""
    while not metrics.is_file() or f'"step": {step},' not in metrics.read_text():
        time.sleep(0.05)
    below = psutil.Process().children(recursive=True)
    workers = [process for process in below if "RayTrainWorker" in " ".join(process.cmdline())]
    workers[-1].kill()
