"""pointvg predict on the shipped model: photos and task files in, lines, JSON and pictures out; refusals in a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.predict_run import least_pixels, read_asked
from pointing.coordinates import FAMILIES
from pointing.drawing import ImageError
from pointing.scenes import write_scenes
from policy.conversation.spoken import read_spoken
from policy.state.model_card import Card
from policy.state.release import Lengths, release
from schemas.config import Data, TrainConfig
from schemas.config.file import SettingError, load

ROOT = Path(__file__).parents[2]
PIXELS = 112 * 112


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model as a run exports its own."""
    folder = tmp_path_factory.mktemp("model") / "export"
    folder.mkdir()
    for file in (ROOT / "models" / "tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    data = Data(train_files="-", min_pixels=PIXELS, max_pixels=PIXELS, prompt_style="short")
    release(folder, data, Lengths(2, 160), Card("models/tiny", "nothing", {}, {}))
    return folder


def test_the_shipped_model_is_asked_as_a_run_would_export_it(model: Path) -> None:
    """Its file is kept beside the weights, and would fall behind what exports say."""
    shipped, exported = (json.loads((folder / "pointing.json").read_text()) for folder in (ROOT / "models/tiny", model))
    trained = load(TrainConfig, ROOT / "configs" / "quickstart.yaml").config.rollout
    assert shipped == exported | {"max_turns": trained.max_turns, "max_new_tokens": trained.max_tokens_per_turn}


def predict(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", "predict", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("VLLM_LOGGING_LEVEL", None)  # set where this process imported vLLM
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.cluster
def test_photos_and_task_files_are_answered_in_order_and_score_reads_them(model: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", train=0, validation=0, test=3, seed=11)
    tasks = tmp_path / "scenes" / "test.jsonl"
    with Image.open(tmp_path / "scenes" / json.loads(tasks.read_text().splitlines()[0])["images"][0]) as image:
        (tmp_path / "photos").mkdir()
        image.convert("RGB").resize((448, 336)).save(tmp_path / "photos" / "wide.jpg")
    out, pictures = tmp_path / "answers.jsonl", tmp_path / "pictures"
    options = ("--model", model, "--samples", "3", "--out", out, "--pictures", pictures)
    done = predict(tasks, tmp_path / "photos", *options)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["test-0", "test-1", "test-2", str(tmp_path / "photos" / "wide.jpg")]
    lines = done.stdout.splitlines()
    for row, line in zip(rows, lines, strict=False):
        assert line.startswith(row["image"])
        assert row["confidence"] in (pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)
        assert all(turn in row["response"] for turn in row["turns"])
    seen = [row["frame"]["seen_size"] for row in rows]
    assert seen[0] == [112, 112] and seen[3] == [112, 84]  # noqa: PT018 (the model's own bounds fit no 4:3 image)
    assert all(row["ray"] is not None and len(row["turns"]) == 2 for row in rows[:3])  # the second look was had
    with Image.open(sorted(pictures.glob("*.png"))[3]) as drawn:
        assert drawn.width == 448
        assert drawn.height > 336  # with its legend
    score = ["score", "--predictions", str(out), "--data", str(tasks), "--out", str(tmp_path / "scores.json")]
    out.write_text("".join(line + "\n" for line in out.read_text().splitlines()[:3]))
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *score], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "scores.json").read_text())["about"]["predictions"] == str(out)


def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    spoken = read_spoken(model)
    with pytest.raises(ImageError, match=r"empty: a folder without \.jpg"):
        read_asked([str(tmp_path / "empty")], spoken, None)
    with pytest.raises(ImageError, match=r"torn\.jpg: cannot be read as an image"):
        read_asked([str(tmp_path / "torn.jpg")], spoken, None)
    with pytest.raises(SettingError, match=r"no pointing\.json there; give the export folder of a run"):
        read_spoken(tmp_path)
    done = predict("photo.jpg", "--model", tmp_path, code=2)
    assert "no pointing.json there" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_question_of_one_s_own_takes_the_place_of_the_model_s_and_bounds_are_left_where_they_fit(
    model: Path, tmp_path: Path
) -> None:
    spoken = read_spoken(model)
    Image.new("RGB", (200, 200)).save(tmp_path / "square.png")
    asked = read_asked([str(tmp_path / "square.png")], spoken, "Which cup?")
    assert asked.questions == ("Which cup?",)
    assert asked.tasks[0].question == spoken.asked("Which cup?")
    assert read_asked([str(tmp_path / "square.png")], spoken, None).questions == (spoken.question,)
    grid = FAMILIES["qwen2_5_vl"].grid
    assert least_pixels(asked, spoken, grid) == PIXELS
    Image.new("RGB", (200, 150)).save(tmp_path / "wide.png")
    assert least_pixels(read_asked([str(tmp_path)], spoken, None), spoken, grid) == PIXELS // 2
