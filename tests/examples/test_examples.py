"""Every example from end to end: scenes, the shipped model on its engine, what follows from the answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def run(*words: str | Path, at: Path = ROOT) -> str:
    """What a Python program prints; it ends well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("name", "least", "said"),
    [
        ("smart_home", 3, "-> publish "),
        ("robot", 3, "-> move to x "),
        ("ar", 3, ".card.png"),
        ("in_car", 1, "That is "),
    ],
)
def test_it_runs_on_scenes_and_the_shipped_model(name: str, least: int, said: str, tmp_path: Path) -> None:
    lines = run("-m", f"examples.{name}.run", "--out", tmp_path).splitlines()
    answers = [line for line in lines if ".png: " in line]
    followed = [line for line in lines if line.startswith("    -> ")]
    assert len(answers) == len(followed) == 8
    assert sum(said in line for line in followed) >= least
    assert any(line.endswith(("nobody points", "(says nothing)")) for line in followed)
    for file in tmp_path.glob("*.card.png"):
        with Image.open(file) as card:
            assert card.size == (448, 448)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smart_home", "robot", "ar", "in_car"])
def test_its_configuration_is_ready_to_train(name: str, tmp_path: Path) -> None:
    run("-m", "orchestrator", "scenes", tmp_path / "s", "--train", "32", "--validation", "4", "--test", "0")
    files = [f"data.train_files={tmp_path}/s/train.jsonl", f"data.validation_files={tmp_path}/s/validation.jsonl"]
    said = run("-m", "orchestrator", "check", "--config", f"examples/{name}/config.yaml", *files)
    assert said.splitlines()[-1] == "ready"
