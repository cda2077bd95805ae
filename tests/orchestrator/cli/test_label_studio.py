"""pointvg data label-studio: a project out, finished annotations in; hands of real photos; Label Studio itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.hand_proposals import ProposalError, environment, proposals
from pointing.dataset import DatasetOptions, read
from pointing.geometry import distance, iou

DATA = os.environ.get("POINTVG_TEST_DATA")
TOKEN = "0123456789abcdef0123456789abcdef01234567"


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["data", "label-studio", *map(str, arguments)])
    assert "Traceback" not in done.output
    return done.exit_code, done.output


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/b.jpg"):
        Image.new("RGB", (200, 100)).save(folder / name)
    return folder


def finished(task: dict[str, Any], state: str = "confirmed") -> list[dict[str, Any]]:
    """What a person submits who draws all of it."""

    def box(label: str, *sides: float) -> dict[str, Any]:
        value = dict(zip(("x", "y", "width", "height"), sides, strict=True))
        value |= {"rotation": 0, "rectanglelabels": [label]}  # type: ignore[dict-item]
        whole = {"original_width": 200, "original_height": 100, "image_rotation": 0, "to_name": "image"}
        return {"id": label, "type": "rectanglelabels", "from_name": "box", "value": value, **whole}

    def point(label: str, x: float, y: float) -> dict[str, Any]:
        value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}
        whole = {"original_width": 200, "original_height": 100, "image_rotation": 0, "to_name": "image"}
        return {"id": label, "type": "keypointlabels", "from_name": "point", "value": value, **whole}

    marks = [box("hand", 10, 30, 20, 40), point("base", 20, 60), point("tip", 25, 40), box("target", 60, 10, 20, 30)]
    texts = {"id": "name", "type": "textarea", "from_name": "name", "to_name": "image", "value": {"text": ["a cup"]}}
    choice = {"id": "s", "type": "choices", "from_name": "state", "to_name": "image", "value": {"choices": [state]}}
    return [*marks, texts, choice] if state != "nobody points" else [choice]


def test_a_project_and_its_finished_annotations(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "project"
    code, said = run("init", photos, "--out", out, "--no-proposals")
    assert code == 0
    assert "tasks        2 photos, 0 with a proposed hand, unconfirmed" in said
    tasks = json.loads((out / "tasks.json").read_text())
    assert [task["data"]["photo"] for task in tasks] == ["a.png", "more/b.jpg"]
    assert str(photos) in (out / "README.md").read_text()
    assert run("init", photos, "--out", out, "--no-proposals")[0] == 2  # is there
    export = tmp_path / "export.json"
    tasks[0]["annotations"] = [{"result": finished(tasks[0])}]
    tasks[1]["annotations"] = []
    export.write_text(json.dumps(tasks))
    code, said = run("read", export, "--out", tmp_path / "t.jsonl", "--images-root", photos)
    assert code == 2
    assert "1 tasks are not finished" in said
    assert "export.json:2: annotations: nobody has submitted more/b.jpg" in said
    assert not (tmp_path / "t.jsonl").exists()
    tasks[1]["annotations"] = [{"result": finished(tasks[1], "nobody points")}]
    export.write_text(json.dumps(tasks))
    code, said = run("read", export, "--out", tmp_path / "t.jsonl", "--images-root", photos)
    assert (code, "2 tasks, 1 of them negatives" in said) == (0, True)
    read_back = read(DatasetOptions((str(tmp_path / "t.jsonl"),), image_dir=str(photos))).tasks
    assert read_back[0].ground_truth.obj_bbox == pytest.approx((120, 10, 160, 40))
    assert read_back[1].ground_truth.negative


def test_unfinished_tasks_are_left_out_if_asked(photos: Path, tmp_path: Path) -> None:
    assert run("init", photos, "--out", tmp_path / "p", "--no-proposals")[0] == 0
    tasks = json.loads((tmp_path / "p" / "tasks.json").read_text())
    tasks[0]["annotations"] = [{"result": finished(tasks[0], "unconfirmed")}]
    tasks[1]["annotations"] = [{"result": finished(tasks[1])}]
    (tmp_path / "e.json").write_text(json.dumps(tasks))
    code, said = run("read", tmp_path / "e.json", "--out", tmp_path / "t.jsonl", "--images-root", photos, "--skip")
    assert code == 0
    assert "left out" in said
    assert "a.png is not confirmed by a person" in said
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["init", "nowhere", "--out", "x", "--no-proposals"], "no folder with .jpg"),
        (["init", "{folder}/photos/more/b.jpg", "--out", "x", "--no-proposals"], "no folder with .jpg"),
        (["read", "no.json", "--out", "x.json"], "name a .jsonl file"),
        (["read", "no.json", "--out", "{folder}/x.jsonl"], "no.json"),
    ],
)
def test_a_mistake_is_told_in_a_line(photos: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    code, told = run(*(argument.format(folder=tmp_path) for argument in arguments))
    assert code == 2
    assert said in told


def test_without_a_network_it_says_what_to_do(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    code, said = run("init", photos, "--out", tmp_path / "p")
    assert code == 2
    assert f"{tmp_path / 'cache' / 'pointvg' / 'mediapipe-0.10.21'}: installing" in said
    assert "no package index can be reached" in said
    assert "--no-proposals" in said
    assert not (tmp_path / "p").exists()


def test_a_program_that_breaks_off_is_an_error_by_photo(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho null\necho 'no memory' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(ProposalError, match=r"b.jpg: MediaPipe broke off \(no memory\)"):
        list(proposals(python, [Path("a.jpg"), Path("b.jpg")]))


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="POINTVG_TEST_DATA names no folder with real_photos/")
def test_hands_of_close_ups_are_proposed(tmp_path: Path) -> None:
    """At least 85 % of them, where they are: a box with an IoU of 0.5, the tip within 12 % of the hand's diagonal."""
    folder = Path(str(DATA)) / "real_photos"
    items = json.loads((folder / "manifest.json").read_text())["items"]
    items = [item for item in items if item["path"].startswith("ti1k/")]
    python = environment(tmp_path / "environment", print)
    right = 0
    for item, found in zip(items, proposals(python, [folder / item["path"] for item in items]), strict=True):
        known = item["annotations"]
        hand = tuple(known["hand_bbox"])
        size = distance(hand[:2], hand[2:])
        right += (
            found is not None
            and iou(found.box, hand) >= 0.5
            and distance(found.tip, tuple(known["index_tip"])) < 0.12 * size
        )
    print(f"{right} of {len(items)} hands")
    assert right >= 0.85 * len(items)


@pytest.fixture
def label_studio(photos: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """A Label Studio of its own, from PyPI, on a free port. POINTVG_LABEL_STUDIO names an environment that has it."""
    place = Path(os.environ.get("POINTVG_LABEL_STUDIO") or tmp_path / "environment")
    if not (place / "bin" / "label-studio").exists():
        venv.create(place, with_pip=True)
        subprocess.run([place / "bin" / "pip", "install", "--quiet", "label-studio"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(photos.parent),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "false",
    }
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | settings
    words = ["start", "--no-browser", "--port", str(port), "--data-dir", str(tmp_path / "ls")]
    words += ["--username", "a@example.org", "--password", "a-long-password", "--user-token", TOKEN]
    with (tmp_path / "ls.log").open("wb") as log:
        running = subprocess.Popen(
            [place / "bin" / "label-studio", *words], env=alone, stdout=log, stderr=log, start_new_session=True
        )
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Token {TOKEN}"}, timeout=60, trust_env=False
    )
    try:
        for _ in range(600):
            assert running.poll() is None, (tmp_path / "ls.log").read_text(errors="replace")[-3000:]
            try:
                if client.get("/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(1)
        yield client
    finally:
        client.close()
        running.terminate()
        running.wait(timeout=60)


def asked(response: httpx.Response) -> Any:
    assert response.is_success, response.text[:2000]
    return response.json()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_label_studio_takes_the_project_and_gives_annotations_back(
    photos: Path, tmp_path: Path, label_studio: httpx.Client
) -> None:
    assert run("init", photos, "--out", tmp_path / "p", "--no-proposals")[0] == 0
    tasks = json.loads((tmp_path / "p" / "tasks.json").read_text())
    proposed = [*finished(tasks[0])[:3], finished(tasks[0], "unconfirmed")[-1]]
    tasks[0]["predictions"] = [{"model_version": "m", "score": 0.9, "result": proposed}]
    labels = (tmp_path / "p" / "labels.xml").read_text()
    project = asked(label_studio.post("/api/projects", json={"title": "pointing", "label_config": labels}))["id"]
    storage = {"project": project, "path": str(photos), "use_blob_urls": True, "title": "photos"}
    asked(label_studio.post("/api/storages/localfiles", json=storage))
    made = asked(label_studio.post(f"/api/projects/{project}/import", json=tasks))
    assert (made["task_count"], made["prediction_count"]) == (2, 1)
    listed = asked(label_studio.get("/api/tasks", params={"project": project, "fields": "all"}))["tasks"]
    by_photo = {task["data"]["photo"]: task for task in listed}
    image = label_studio.get(by_photo["more/b.jpg"]["data"]["image"])
    assert image.content == (photos / "more/b.jpg").read_bytes()
    for photo, state in (("a.png", "confirmed"), ("more/b.jpg", "nobody points")):
        task = by_photo[photo]
        words = {"result": finished(task, state)}
        asked(label_studio.post(f"/api/tasks/{task['id']}/annotations", json=words))
    export = label_studio.get(f"/api/projects/{project}/export", params={"exportType": "JSON"})
    (tmp_path / "export.json").write_bytes(export.content)
    code, said = run("read", tmp_path / "export.json", "--out", tmp_path / "t.jsonl", "--images-root", photos)
    assert code == 0, said
    found = read(DatasetOptions((str(tmp_path / "t.jsonl"),), image_dir=str(photos))).tasks
    truths = {Path(task.images[0]).name: task.ground_truth for task in found}
    assert truths["a.png"].obj_bbox == pytest.approx((120, 10, 160, 40))
    assert truths["a.png"].obj_name == "a cup"
    assert truths["b.jpg"].negative
