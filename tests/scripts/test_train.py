"""scripts/train.sh, run for real up to where it would start: paths, settings by environment, an imported file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from migration.table import KNOBS
from pointing.scenes import write_scenes
from schemas.config import TrainConfig
from schemas.config.file import load

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "train.sh"
SMALL = ["data.test_files=[]", "trainer.max_steps=2", "rollout.tasks_per_step=4", "run.folder=runs"]


def started(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, called from another folder than its own."""
    known = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    known |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    known["POINTVG"] = str(Path(sys.executable).with_name("pointvg"))
    return subprocess.run(
        [str(SCRIPT), *words], cwd=folder, env=known | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    write_scenes(tmp_path / "it's", train=8, validation=4, test=0)
    return {
        "MODEL_PATH": str(ROOT / "models/tiny"),
        "TRAIN_FILES": "it's/train.jsonl",
        "VAL_FILES": "it's/validation.jsonl",
    }


def test_three_paths_and_what_the_environment_sets_are_ready_to_train(tmp_path: Path, paths: dict[str, str]) -> None:
    quickstart = str(ROOT / "configs/quickstart.yaml")
    done = started(tmp_path, "--dry", *SMALL, CONFIG=quickstart, ROLLOUT_N="4", **paths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ready"
    assert "train: 8 tasks" in done.stdout
    wrong = started(tmp_path, "--dry", *SMALL, CONFIG=quickstart, KL_COEF="-1", **paths)
    assert wrong.returncode == 2
    assert "algorithm.kl.coefficient" in wrong.stderr


def test_an_old_configuration_is_imported_and_checked(tmp_path: Path, paths: dict[str, str]) -> None:
    (tmp_path / "old.yaml").write_text("data: {answer_key: ground_truth, min_pixels: 12544, max_pixels: 12544}\n")
    more = ["worker.actor.global_batch_size=4", "trainer.max_steps=2", "trainer.save_limit=2", "trainer.logger=[file]"]
    given = {"OLD_CONFIG": "old.yaml", "ROLLOUT_N": "4", "ROLLOUT_BATCH_SIZE": "8", "EXPERIMENT_NAME": "mine"}
    done = started(tmp_path, "--dry", *more, **given, **paths)
    assert done.returncode == 0, done.stderr
    config = load(TrainConfig, tmp_path / "imported.yaml").config
    assert (config.rollout.tasks_per_step, config.rollout.samples_per_task, config.run.name) == (8, 4, "mine")
    assert config.data.train_files == paths["TRAIN_FILES"]
    assert done.stdout.splitlines()[-1].startswith("ready")  # its GPUs are elsewhere


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        ([], {}, "MODEL_PATH is not set; say where it is"),
        ([], {"MODEL_PATH": "m", "TRAIN_FILES": "t"}, "VAL_FILES is not set"),
        (["--fast"], {}, "--fast: no such option; there is --dry"),
    ],
)
def test_what_is_missing_is_said_in_a_line(tmp_path: Path, words: list[str], more: dict[str, str], said: str) -> None:
    done = started(tmp_path, *words, **more)
    assert done.returncode == 2
    assert done.stderr.startswith(f"train.sh: {said}")
    assert len(done.stderr.splitlines()) == 1


def test_every_setting_of_the_script_is_one_of_both_systems() -> None:
    [table] = re.findall(r'^SETTINGS="\n(.*?)^"', SCRIPT.read_text(encoding="utf-8"), re.M | re.S)
    rows = [line.split() for line in table.splitlines()]
    assert len(rows) > 20
    whole = load(TrainConfig, ROOT / "configs/published.yaml").config.model_dump()
    for _, here, published in rows:
        assert here in KNOBS[published].new, (here, published)
        at: object = whole
        for key in here.split("."):
            assert isinstance(at, dict)
            assert key in at, here
            at = at[key]
