"""Rows that stage 1 cannot use are found before anything starts, exactly those, and left out where that is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from orchestrator.batch.tasks import read_split, row_reader
from orchestrator.preflight.check import check
from pointing.dataset import DatasetError
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import read_info, read_tokenizer
from policy.conversation.transcripts import supervised
from schemas.config import SftConfig
from schemas.row_problem import FieldError
from schemas.task import GroundTruth, RaySegment, Task

WHOLE: dict[str, Any] = {
    "stage": 2,
    "hand_bbox": [10, 10, 30, 30],
    "pointing_ray": {"start": [30, 30], "end": [90, 50]},
    "obj_bbox": [70, 40, 100, 60],
    "obj_name": "cup",
}


def configured(model: str, folder: Path, *truths: dict[str, Any] | str, **data: Any) -> SftConfig:
    Image.new("RGB", (120, 90), "grey").save(folder / "a.png")
    rows = [{"prompt": "What?", "images": ["a.png"], "ground_truth": truth} for truth in truths]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SftConfig.model_validate(
        {
            "run": {"folder": str(folder / "runs")},
            "model": {"path": model},
            "data": {"train_files": str(folder / "t.jsonl"), "min_pixels": 784, "max_pixels": 12544} | data,
            "trainer": {"samples": 4, "batch_rows": 2},
        }
    )


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in WHOLE.items() if name != key}


def test_partial_truth_is_refused_by_line_and_part(tiny_model: str, tmp_path: Path) -> None:
    config = configured(tiny_model, tmp_path, WHOLE, "none", without("pointing_ray"), without("obj_name"))
    said = str(check(config).problems[0])
    assert "t.jsonl:3: ground_truth: no transcript without pointing_ray; add it, or leave the task out of SFT" in said
    assert "t.jsonl:4: ground_truth: no transcript without obj_name" in said
    with pytest.raises(DatasetError, match=r"t\.jsonl:3: ground_truth: no transcript without pointing_ray"):
        read_split(config, "train")


def test_partial_truth_is_left_out_and_listed(
    tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tiny_model, tmp_path, WHOLE, "none", without("hand_bbox"), on_error="skip")
    report = check(config, every_row=True)
    assert not report.problems
    assert any("t.jsonl:3: ground_truth: no transcript without hand_bbox" in note for note in report.notes)
    assert [task.source[-1] for task in read_split(config, "train")] == ["1", "2"]
    assert "left out" in capsys.readouterr().out


def test_a_jpeg_with_a_hole_is_found_where_all_is_read(tiny_model: str, tmp_path: Path) -> None:
    config = configured(tiny_model, tmp_path, WHOLE)
    Image.effect_noise((120, 90), 90).convert("RGB").save(tmp_path / "a.jpg", quality=95)
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[:3000] + bytes(2000) + whole[5000:])
    (tmp_path / "t.jsonl").write_text(json.dumps({"prompt": "?", "images": ["a.jpg"], "ground_truth": "none"}))
    assert not check(config).problems
    assert "Corrupt JPEG data" in str(check(config, every_row=True).problems[0])


numbers = st.integers(-20, 140)
points = st.tuples(numbers, numbers)
boxes = st.tuples(numbers, numbers, numbers, numbers)
truths = st.builds(
    GroundTruth,
    hand_bbox=st.none() | boxes,
    pointing_keypoints=st.none() | st.tuples(points, points),
    pointing_ray=st.none() | st.builds(RaySegment, start=points, end=points),
    obj_bbox=st.none() | boxes,
    obj_name=st.sampled_from([None, "", "cup", "a<b", "two\nlines"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(truth=truths)
def test_ready_means_that_a_conversation_can_be_made(tiny_model: str, tmp_path: Path, truth: GroundTruth) -> None:
    config = configured(tiny_model, tmp_path)
    task = Task(task_id="t", prompt="<image>What?", images=(str(tmp_path / "a.png"),), ground_truth=truth)
    chat = ChatFormat(read_tokenizer(tiny_model))
    try:
        row_reader(config)(task)
    except FieldError:
        with pytest.raises(ValueError, match="t: "):
            supervised(task, read_info(tiny_model), chat, config.data)
    else:
        assert supervised(task, read_info(tiny_model), chat, config.data).ledger.n_sampled > 0
