"""One whole training step on real photographs, most of which have a hand box alone."""

import json
import os
from pathlib import Path

import pytest

from orchestrator.train_run import run_training
from schemas.config import TrainConfig
from tests.small_run import small_run

pytestmark = pytest.mark.cluster

DATA = os.environ.get("POINTVG_TEST_DATA")


@pytest.mark.skipif(DATA is None, reason="POINTVG_TEST_DATA is not set: no folder of real photographs to train on")
def test_one_step_on_real_photographs(tiny_model: str, tmp_path: Path) -> None:
    photos = Path(str(DATA)) / "real_photos"
    items = json.loads((photos / "manifest.json").read_text(encoding="utf-8"))["items"]
    known = ("hand_bbox", "pointing_keypoints", "pointing_ray", "obj_bbox", "obj_name")
    file = tmp_path / "photos.jsonl"
    with file.open("w", encoding="utf-8") as stream:
        for item in items[-1:] + items[:5]:  # the last has a target and a ray too
            truth = {key: item["annotations"][key] for key in known if key in item["annotations"]}
            row = {"prompt": "<image>What is pointed at?", "images": [item["path"]], "ground_truth": truth}
            stream.write(json.dumps(row) + "\n")
    config = TrainConfig.model_validate(
        small_run(
            tmp_path,
            tmp_path,
            model=tiny_model,
            run={"name": "photos"},
            data={
                "train_files": str(file),
                "image_dir": str(photos),
                "prompt_style": "detailed",
                "min_pixels": 112 * 112,
                "max_pixels": 224 * 224,
                "shuffle": False,
            },
            rollout={"samples_per_task": 2, "max_tokens_per_turn": 32, "engine": {"max_model_len": 2048}},
            trainer={"max_steps": 1},
        )
    )
    outcome = run_training(config)
    (record,) = [json.loads(line) for line in outcome.folder.metrics.read_text().splitlines()]
    assert record["learner/trained_tokens"] > 0
    assert record["learner/mismatch_max"] < 1e-4
    assert record["learner/skipped"] == 0
    assert 0 <= record["reward/mean"] <= 10
