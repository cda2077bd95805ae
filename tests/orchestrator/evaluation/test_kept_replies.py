"""pointvg eval --replies --pictures: what the model said of each task, in the form that pointvg score reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.evaluation.predictions import score_predictions
from pointing.scenes import write_scenes
from tests.small_run import small_run

pytestmark = pytest.mark.cluster


def test_replies_of_an_evaluation_are_kept_and_score_as_they_did(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "s", train=2, validation=3, test=2)
    settings = small_run(scenes, tmp_path / "runs", validation={"samples": 1, "greedy": True})
    settings["data"]["validation_files"] = str(scenes / "validation.jsonl")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    kept = [tmp_path / name for name in ("replies.jsonl", "numbers.json", "drawn")]
    words = ["eval", "--config", "c.yaml", "--replies", kept[0], "--out", kept[1], "--pictures", kept[2]]
    command = [sys.executable, "-m", "orchestrator", *map(str, words)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in map(json.loads, kept[0].read_text().splitlines())] == [
        f"validation-{number}" for number in range(3)
    ]
    assert len(list(kept[2].glob("*.png"))) == 3
    numbers = json.loads(kept[1].read_text())
    report = score_predictions(kept[0], scenes / "validation.jsonl")
    assert numbers["greedy/object_iou"] == pytest.approx(report.metrics["object_iou"].mean, abs=1e-6)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "add --overwrite" in again.stderr
