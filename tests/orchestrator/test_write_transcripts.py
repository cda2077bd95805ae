"""pointvg data transcripts: files in, files with transcripts out; stage 1 reads them; rows that have none by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.batch.tasks import read_split
from orchestrator.cli.main import app
from orchestrator.preflight.data_files import check_data
from pointing.scenes import write_scenes
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import read_info, read_tokenizer
from policy.conversation.transcripts import supervised
from schemas.config import SftConfig, TrainConfig
from schemas.config.file import ConfigError, load
from tests.small_run import SHIPPED

BOUNDS = ("--min-pixels", "12544", "--max-pixels", "12544")
TRUTH: dict[str, Any] = {
    "hand_bbox": [10, 60, 40, 90],
    "pointing_keypoints": [[20, 70], [30, 64]],
    "pointing_ray": {"start": [30, 64], "end": [80, 30]},
    "obj_bbox": [70, 20, 100, 50],
    "obj_name": "cup",
}


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["data", "transcripts", *map(str, arguments)])
    assert "Traceback" not in done.output
    return done.exit_code, done.output


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def configured(file: Path, **data: Any) -> SftConfig:
    bounds = {"min_pixels": 12544, "max_pixels": 12544, "prompt_style": "short"}
    values: dict[str, Any] = {
        "model": {"path": str(SHIPPED)},
        "data": {"train_files": str(file)} | bounds | data,
        "trainer": {"samples": 8, "batch_rows": 4},
    }
    return SftConfig.model_validate(values)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with an image, for files of rows."""
    Image.new("RGB", (112, 112), (90, 120, 90)).save(tmp_path / "a.png")
    return tmp_path


def planted(folder: Path, *truths: object, **more: Any) -> Path:
    file = folder / "in.jsonl"
    lines = ({"prompt": "What?", "images": ["a.png"], "ground_truth": truth, "kept": 7} | more for truth in truths)
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def test_scenes_get_transcripts_that_stage_1_trains_on(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "s", train=12, validation=1, test=1)
    out = scenes / "sft.jsonl"
    code, said = run(scenes / "train.jsonl", "--out", out, *BOUNDS)
    assert code == 0
    before, after = rows_of(scenes / "train.jsonl"), rows_of(out)
    negatives = sum(row["ground_truth"] in ("none", None) for row in before)
    assert f"transcripts  {12 - negatives} of positives, {negatives} of negatives\n" in said
    assert [{k: v for k, v in row.items() if not k.startswith("transcript")} for row in after] == before
    assert after[0]["transcript_frame"] == {"kind": "pixels", "seen_size": [112, 112]}
    config = configured(out)
    tasks = read_split(config, "train")
    info, chat = read_info(str(SHIPPED)), ChatFormat(read_tokenizer(str(SHIPPED)))
    for task, row in zip(tasks, after, strict=True):
        ledger = supervised(task, info, chat, config.data).ledger
        spoken = [chat.decode(ledger.learner_ids())]
        assert all(turn in spoken[0] for turn in row["transcript"])
    assert run(scenes / "train.jsonl", "--out", out, *BOUNDS)[0] == 2  # is there already
    assert run(scenes / "train.jsonl", "--out", out, *BOUNDS, "--overwrite")[0] == 0
    assert rows_of(out) == after


def test_transcripts_for_other_pixels_are_refused_before_ray_starts(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "s", train=3, validation=1, test=1)
    out = scenes / "sft.jsonl"
    assert run(scenes / "train.jsonl", "--out", out, "--min-pixels", "50176", "--max-pixels", "50176")[0] == 0
    (problem,) = check_data(configured(out), None).findings.problems
    assert "sft.jsonl:1: transcript_frame: is of images seen as 224x224, and the model sees 112x112" in str(problem)
    assert run(scenes / "train.jsonl", "--out", out, *BOUNDS, "--family", "qwen2-vl", "--overwrite")[0] == 0
    (problem,) = check_data(configured(out), None).findings.problems
    assert "is written in thousandths, and the model speaks in pixels" in str(problem)


def test_a_persons_own_transcripts_are_checked_by_row(photos: Path) -> None:
    own = ["<think>Nobody here points.</think><answer>Nothing at all.</answer>"]
    file = planted(photos, "none", transcript=own)
    (task,) = read_split(configured(file), "train")
    assert task.transcript is not None
    assert list(task.transcript.turns) == own
    (task,) = read_split(configured(file, transcript_key="other"), "train")
    assert task.transcript is None
    (problem,) = check_data(configured(planted(photos, TRUTH, transcript=own)), None).findings.problems
    assert "in.jsonl:1: transcript: draws no ray, and the ground truth is a positive" in str(problem)


def test_stage_2_refuses_a_column_that_it_would_not_read(photos: Path) -> None:
    (photos / "c.yaml").write_text("data: {train_files: a.jsonl, transcript_key: t}\ntrainer: {max_steps: 1}\n")
    with pytest.raises(ConfigError, match="transcript_key='t' has no effect in stage 2"):
        load(TrainConfig, photos / "c.yaml", ["model.path=m"])


PARTIAL: list[tuple[dict[str, Any], str]] = [
    ({"hand_bbox": None}, "in.jsonl:2: ground_truth: no transcript without hand_bbox; add it"),
    ({"pointing_ray": None}, "no transcript without pointing_ray"),
    ({"obj_bbox": None, "obj_name": None}, "no transcript without obj_bbox, obj_name"),
    ({"obj_name": "a <b>"}, "in.jsonl:2: ground_truth.obj_name='a <b>': holds markup"),
    ({"pointing_ray": {"start": [30, 64], "end": [30.1, 64]}}, "ground_truth.pointing_ray"),
    ({"obj_bbox": [70, 20, 100]}, "in.jsonl:2: ground_truth.obj_bbox"),
]


@pytest.mark.parametrize(("change", "said"), PARTIAL, ids=[str(change) for change, _ in PARTIAL])
def test_rows_without_a_transcript_are_named_and_nothing_is_written(
    photos: Path, change: dict[str, Any], said: str
) -> None:
    file = planted(photos, TRUTH, TRUTH | change, "none")
    code, told = run(file, "--out", photos / "out.jsonl", *BOUNDS)
    assert code == 2
    assert "1 rows have no transcript" in told
    assert said in told.replace("\n", " ")
    assert sorted(path.name for path in photos.iterdir()) == ["a.png", "in.jsonl"]
    code, told = run(file, "--out", photos / "out.jsonl", *BOUNDS, "--skip")
    assert code == 0
    assert said in told
    assert len(rows_of(photos / "out.jsonl")) == 2


def test_without_keypoints_the_finger_is_the_ray(photos: Path) -> None:
    code, said = run(planted(photos, TRUTH | {"pointing_keypoints": None}), "--out", photos / "out.jsonl", *BOUNDS)
    assert code == 0
    assert "; the finger of 1 is that of the ray" in said
    (row,) = rows_of(photos / "out.jsonl")
    assert "<|point_start|>[30, 64]<|point_end|>" in row["transcript"][0]
    assert row["kept"] == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the data file"),
        (["{folder}/in.jsonl"], "name the file to write"),
        (["{folder}", "--out", "x.jsonl"], "is a folder"),
        (["{folder}/in.jsonl", "--out", "x.parquet"], "a .jsonl file is written"),
        (["{folder}/no.jsonl", "--out", "{folder}/x.jsonl"], "no.jsonl: no such file"),
        (["{folder}/in.jsonl", "--out", "{folder}/x.jsonl", "--min-pixels", "9", "--max-pixels", "8"], "is above"),
        (["{folder}/in.jsonl", "--out", "{folder}/x.jsonl", "--templates", "{folder}/no.yaml"], "no.yaml"),
        (["{folder}/in.jsonl", "--out", "{folder}/x.jsonl", "--transcript-key", "kept"], "kept: is there already"),
        (["{folder}/in.jsonl", "--out", "{folder}/x.jsonl", "--family", "llava"], "--family"),
    ],
)
def test_a_mistake_is_told_in_a_line(photos: Path, arguments: list[str], said: str) -> None:
    planted(photos, TRUTH)
    code, told = run(*(argument.format(folder=photos) for argument in arguments))
    assert code == 2
    assert said in told


def test_the_printed_templates_are_those_that_are_used(photos: Path) -> None:
    code, text = run("--print-templates")
    assert code == 0
    (photos / "w.yaml").write_text(text.replace("The hand is at", "My hand is at"))
    file = planted(photos, *[TRUTH] * 30)
    assert run(file, "--out", photos / "a.jsonl", *BOUNDS)[0] == 0
    assert run(file, "--out", photos / "b.jsonl", *BOUNDS, "--templates", photos / "w.yaml")[0] == 0
    shipped, own = (photos / "a.jsonl").read_text(), (photos / "b.jsonl").read_text()
    assert "My hand is at" in own
    assert own.replace("My hand is at", "The hand is at") == shipped


def test_parquet_with_images_inside_stays_what_it_is(photos: Path) -> None:
    image = {"bytes": (photos / "a.png").read_bytes(), "path": "a.png"}
    rows = [{"prompt": "What?", "images": [image], "ground_truth": json.dumps(truth)} for truth in (TRUTH, TRUTH)]
    pq.write_table(pa.Table.from_pylist(rows), photos / "in.parquet")
    assert run(photos / "in.parquet", "--out", photos / "out.parquet", *BOUNDS)[0] == 0
    made = pq.read_table(photos / "out.parquet").to_pylist()
    assert [row["images"] for row in made] == [[image], [image]]
    tasks = read_split(configured(photos / "out.parquet", unpack_dir=str(photos / "unpacked")), "train")
    assert [list(task.transcript.turns) for task in tasks if task.transcript] == [row["transcript"] for row in made]


@pytest.mark.slow
def test_100_000_rows_in_bounded_memory(photos: Path) -> None:
    """Peak memory of a hundred thousand rows is that of a thousand, but for some MiB."""
    peaks: list[int] = []
    for count in (1_000, 100_000):
        line = json.dumps({"prompt": "What?", "images": ["a.png"], "ground_truth": TRUTH}) + "\n"
        (photos / "in.jsonl").write_text(line * count)
        command = ["data", "transcripts", str(photos / "in.jsonl"), "--out", str(photos / f"{count}.jsonl"), *BOUNDS]
        code = (
            "import resource, sys; from orchestrator.cli.main import app\n"
            "try: app(sys.argv[1:])\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]))
        with (photos / f"{count}.jsonl").open() as lines:
            assert sum(1 for _ in lines) == count
    assert peaks[1] - peaks[0] < 20 * 1024, peaks
