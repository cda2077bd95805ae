"""SIGTERM to a real run: it saves, says so, exits with 143, and the same command goes on from there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from policy.state.checkpoint import verify
from tests.small_run import small_run

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def configured(model: str, scenes: Path, folder: Path) -> dict[str, Any]:
    return small_run(
        scenes,
        folder,
        model=model,
        run={"grace_s": 60},
        rollout={
            "tasks_per_step": 2,
            "samples_per_task": 2,
            "max_tokens_per_turn": 16,
            "engine": {"max_model_len": 160},
        },
        algorithm={"kl": {"coefficient": 0.0}},
        validation={"before": True, "after": True},
        checkpoint={"keep_best": True},
        trainer={"max_steps": 40},
    )


def start(file: Path, *overrides: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "orchestrator", "train", "--config", str(file), *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def steps(folder: Path) -> list[int]:
    file = folder / "run" / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.is_file() else []


def test_a_run_that_is_told_to_stop_saves_and_goes_on_later(tiny_model: str, scenes: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(configured(tiny_model, scenes, tmp_path)))
    first = start(file)
    try:
        deadline = time.monotonic() + 240
        while len(steps(tmp_path)) < 2 and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(first.pid, signal.SIGTERM)
        said = first.communicate(timeout=120)[0]
    finally:
        first.kill()
    assert first.returncode == 143, said
    done = len(steps(tmp_path))
    assert 2 <= done < 40
    saved = tmp_path / "run" / "checkpoints" / f"step-{done:06d}"
    assert f"stopped by SIGTERM: {saved} is written, and the same command continues from it" in said
    verify(saved)
    second = start(file, f"trainer.max_steps={done + 1}")
    try:
        said = second.communicate(timeout=240)[0]
    finally:
        second.kill()
    assert second.returncode == 0, said
    assert f"continuing from step {done} of {done + 1}" in said
    assert steps(tmp_path) == list(range(done + 1))
