"""pointvg score: how rows find their tasks, what is refused, and what is written."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.evaluation.predictions import (
    PredictedReply,
    PredictionError,
    pair,
    read_predictions,
    score_predictions,
    to_items,
)
from pointing.coordinates import Frame
from pointing.dataset import DatasetOptions, read
from pointing.image_check import image_size
from pointing.prompts import transcript
from pointing.scenes import write_scenes
from schemas.config.service import ServiceOptions
from schemas.scoring import RewardRules
from services.reward.routes import build_api


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictions")
    write_scenes(folder, train=1, validation=1, test=6, seed=5)
    return folder / "test.jsonl"


def replies(data: Path, kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for task in read(DatasetOptions(files=(str(data),))).tasks:
        size = image_size(Path(task.images[0]))
        frame = Frame("thousandths" if kind == "thousandths" else "pixels", size, size)
        rows.append({"id": task.task_id, "response": "\n".join(transcript(task.ground_truth, frame)), "model": "x"})
    return rows


@pytest.fixture
def written(tmp_path: Path) -> Callable[[list[Any]], Path]:
    def write(rows: list[Any]) -> Path:
        file = tmp_path / "out.jsonl"
        file.write_text("\n".join(json.dumps(row) for row in rows))
        return file

    return write


@pytest.mark.parametrize("kind", ["pixels", "thousandths"])
def test_right_replies_score_nearly_everything(data: Path, written: Any, kind: Any) -> None:
    rows = replies(data, kind)
    options = ServiceOptions(rules=RewardRules(negative_max=10))
    report = score_predictions(written(rows), data, reward=options, frame=kind)
    assert report.reward.mean > 9.5
    assert report.metrics["object_iou"].mean > 0.95
    assert sum(known["object_iou"].count for known in report.by_size.values() if known) == report.positives
    other = "thousandths" if kind == "pixels" else "pixels"
    assert score_predictions(written(rows), data, frame=other).metrics["object_iou"].mean < 0.7


def test_rows_find_their_tasks_by_id_or_by_order(data: Path, written: Any) -> None:
    rows = replies(data, "pixels")
    expected = score_predictions(written(rows), data)
    assert score_predictions(written(rows[::-1]), data) == expected
    assert score_predictions(written([{"response": row["response"]} for row in rows]), data) == expected
    blind = [{"response": row["response"]} for row in rows[::-1]]
    assert score_predictions(written(blind), data) != expected


def test_a_row_s_own_frame_wins(data: Path, written: Any) -> None:
    rows = replies(data, "thousandths")
    sizes = [image_size(Path(task.images[0])) for task in read(DatasetOptions(files=(str(data),))).tasks]
    for row, size in zip(rows, sizes, strict=True):
        row["frame"] = {"kind": "thousandths", "original_size": [size.width, size.height]}
    assert score_predictions(written(rows), data).metrics["object_iou"].mean > 0.95


def test_other_file_formats(data: Path, tmp_path: Path, written: Any) -> None:
    rows = replies(data, "pixels")
    expected = score_predictions(written(rows), data)
    (tmp_path / "p.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    for name in ("p.json", "p.parquet"):
        assert score_predictions(tmp_path / name, data) == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", "", "holds no prediction"),
        ("p.jsonl", '{"response": ""}\n{', r"p\.jsonl:2: not JSON"),
        ("p.jsonl", '{"response": ""}\n{"response": 3}', "row 2: response: Input should be a valid string"),
        ("p.jsonl", "[]", "row 1: row: "),
        ("p.jsonl", '{"id": "a"}', "row 1: response: Field required"),
        ("p.json", "{}", "expected a list of objects"),
        ("p.json", "", "expected a list of objects"),
        ("p.csv", "a,b", r"\.csv is not one of \.jsonl, \.json, \.parquet"),
        ("p.parquet", "no", "cannot be read as Parquet"),
        ("absent", None, "no such file; check --predictions"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(PredictionError, match=words):
        read_predictions(tmp_path / name)


def test_what_is_left_over_is_named(data: Path, written: Any) -> None:
    tasks = read(DatasetOptions(files=(str(data),))).tasks
    rows = replies(data, "pixels")
    for broken, words in (
        (rows[1:], r"1 tasks without a prediction \(test-0\), 0 predictions without a task"),
        ([*rows, {"id": "test-99", "response": ""}], r"1 predictions without a task \(test-99\)"),
        ([*rows, rows[2]], "once each; see test-2"),
        ([*rows[:-1], {"response": ""}], "once each; see None"),
        ([{"response": ""}], "1 predictions for 6 tasks"),
    ):
        with pytest.raises(PredictionError, match=words):
            pair(read_predictions(written(broken)), tasks)


def test_ground_truth_reaches_the_score_unchanged(data: Path) -> None:
    tasks = read(DatasetOptions(files=(str(data),))).tasks
    items = to_items([(PredictedReply(response=""), task) for task in tasks])
    rows = [json.loads(line)["ground_truth"] for line in data.read_text().splitlines()]
    for item, row, task in zip(items, rows, tasks, strict=True):
        assert item.ground_truth == (None if task.ground_truth.negative else row)
        assert item.frame is not None
        with Image.open(task.images[0]) as image:
            assert item.frame.original_size == image.size


# ---- the command ----


def test_the_command_prints_a_table_and_writes_json_and_a_plot(data: Path, written: Any) -> None:
    file = written(replies(data, "pixels"))
    result = CliRunner().invoke(app, ["score", "--predictions", str(file), "--data", str(data)])
    assert result.exit_code == 0, result.output
    assert "object mIoU" in result.output
    assert "95% interval" in result.output
    numbers = json.loads(file.with_suffix(".scores.json").read_text())
    assert numbers["about"] == {
        "predictions": str(file),
        "data": str(data),
        "scored_by": "published rules",
        "frame": "pixels",
    }
    assert numbers["metrics"]["object_iou"]["low"] <= numbers["metrics"]["object_iou"]["mean"]
    with Image.open(file.with_suffix(".scores.png")) as picture:
        assert picture.width > 600


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The service's own application behind a socket."""
    inner = TestClient(build_api(ServiceOptions(rules=RewardRules(obj_iou=1.0), port=8100, token_env="T"), "right"))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got: httpx.Response = inner.post(self.path, content=body, headers=dict(self.headers))
            self.send_response(got.status_code)
            self.send_header("Content-Type", got.headers["content-type"])
            self.send_header("Content-Length", str(len(got.content)))
            self.end_headers()
            self.wfile.write(got.content)

        def log_message(self, format: str, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_endpoint_scores_by_its_own_rules(
    data: Path, written: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(replies(data, "pixels"))
    monkeypatch.setenv("SERVICE_TOKEN", "right")
    arguments = ["score", "--predictions", str(file), "--data", str(data), "--endpoint", endpoint]
    result = CliRunner().invoke(app, [*arguments, "--token-env", "SERVICE_TOKEN", "--out", str(file.parent / "r.json")])
    assert result.exit_code == 0, result.output
    remote = json.loads((file.parent / "r.json").read_text())
    here = score_predictions(file, data, reward=ServiceOptions(rules=RewardRules(obj_iou=1.0)))
    assert remote.pop("about")["scored_by"] == endpoint
    assert remote == here.model_dump(mode="json")
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert "401 Unauthorized" in refused.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--predictions", "p", "--data", "d", "--frame", "inches"], "'inches' is not one of 'pixels', 'thousandths'"),
        (["--predictions", "p", "--data", "d", "--token-env", "T"], "--token-env has no effect without --endpoint"),
        (["--predictions", "p", "--data", "d", "--endpoint", "http://x", "--token-env", "UNSET_T"], "UNSET_T"),
        (["--predictions", "p", "--data", "d", "--endpoint", "http://x", "--reward", "r"], "--reward has no effect"),
        (["--predictions", "p", "--data", "d", "--reward", "absent.yaml"], "absent.yaml: cannot be read"),
        (["--predictions", "absent.jsonl", "--data", "d"], "absent.jsonl: no such file"),
    ],
)
def test_what_cannot_work_is_one_message(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["score", *arguments])
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_nothing_is_written_over_unless_asked(data: Path, written: Any) -> None:
    file = written(replies(data, "pixels"))
    arguments = ["score", "--predictions", str(file), "--data", str(data)]
    file.with_suffix(".scores.png").write_bytes(b"mine")
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert ".scores.png exists; add --overwrite" in refused.output
    assert not file.with_suffix(".scores.json").exists()
    assert file.with_suffix(".scores.png").read_bytes() == b"mine"
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0
    with Image.open(file.with_suffix(".scores.png")) as picture:
        assert picture.width > 600


def test_a_folder_that_is_not_there_is_made(data: Path, written: Any, tmp_path: Path) -> None:
    file = written(replies(data, "pixels"))
    out = tmp_path / "not" / "there" / "numbers.json"
    done = CliRunner().invoke(app, ["score", "--predictions", str(file), "--data", str(data), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text())["about"]["frame"] == "pixels"


def test_the_old_form_of_eval_names_the_new_command() -> None:
    result = CliRunner().invoke(app, ["eval", "--predictions", "p.jsonl", "--data", "d.jsonl"])
    assert result.exit_code == 2
    assert "pointvg score --predictions FILE --data FILE" in result.output
