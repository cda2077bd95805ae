"""POST /v1/point on a real engine: one answer, stages as they come, many at once, and uploads of every kind."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pointing.geometry import iou
from pointing.scenes import write_scenes
from schemas.config.pointer import PointerOptions
from services.pointer.engine_loop import EngineLoop
from services.pointer.routes import build_api

ROOT = Path(__file__).resolve().parents[3]
MODEL = str(ROOT / "models" / "tiny")
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    engine = EngineLoop(MODEL)
    options = PointerOptions(model=MODEL, token_env="T", max_samples=8, max_image_pixels=1_000_000)
    app = build_api(options, "right", engine)
    with TestClient(app, headers={"Authorization": "Bearer right"}, raise_server_exceptions=False) as http:
        yield http
    engine.close()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, dict[str, Any]]]:
    """Positive scenes: the PNG, and the truth."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "s", train=0, validation=0, test=24, seed=5)
    rows = [json.loads(line) for line in (folder / "s" / "test.jsonl").read_text().splitlines()]
    known = [(folder / "s" / row["images"][0], _truth(row)) for row in rows]
    return [(file.read_bytes(), truth) for file, truth in known if truth.get("obj_bbox")]


def _truth(row: dict[str, Any]) -> dict[str, Any]:
    given = next((row[key] for key in ("ground_truth", "answer", "solution") if key in row), None)
    read = json.loads(given) if isinstance(given, str) and given.startswith("{") else given
    return read if isinstance(read, dict) else {}


def ask(client: TestClient, content: bytes, **fields: Any) -> httpx.Response:
    return client.post("/v1/point", files={"image": ("photo", content)}, data=fields)


def png(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(part.split("\ndata: ", 1)[1]) for part in text.strip().split("\n\n")]


def test_most_scenes_are_answered_rightly_as_json_and_as_a_form(client: TestClient, scenes: Any) -> None:
    right = 0
    for content, truth in scenes[:8]:
        answer = ask(client, content).json()
        body = {"image": base64.b64encode(content).decode()}
        same = client.post("/v1/point", json=body).json()
        assert {**answer, "seconds": 0} == {**same, "seconds": 0}
        assert answer["confidence"] is None
        assert len(answer["samples"][0]["turns"]) == 2  # the second look was had
        right += answer["target"] is not None and iou(tuple(answer["target"]), tuple(truth["obj_bbox"])) > 0.5
    assert right >= 6


def test_stages_come_in_order_and_the_last_is_the_answer(client: TestClient, scenes: Any) -> None:
    response = client.post(
        "/v1/point", files={"image": scenes[0][0]}, data={"samples": 3}, headers={"Accept": "text/event-stream"}
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    told = events(response.text)
    for index in range(3):
        mine = [one["event"] for one in told if one.get("index") == index and one["event"] != "confidence"]
        assert mine == ["look", "hand", "ray", "redrawn", "look", "target"]
    assert [one["event"] for one in told[-2:]] == ["confidence", "done"]
    answer = told[-1]["answer"]
    assert answer["confidence"] == told[-2]["share"]
    assert answer["confidence"] in (pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)
    redrawn = next(one for one in told if one["event"] == "redrawn")
    with Image.open(io.BytesIO(base64.b64decode(redrawn["image"]))) as shown:
        assert shown.size == (112, 112)


def test_many_at_once_get_the_answers_that_each_gets_alone(client: TestClient, scenes: Any) -> None:
    alone = [ask(client, content).json()["samples"][0]["turns"] for content, _ in scenes[:6]]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda k: ask(client, scenes[k % 6][0]).json(), range(24)))
    assert [one["samples"][0]["turns"] for one in together] == [alone[k % 6] for k in range(24)]


def test_photos_of_every_kind_are_turned_upright_and_read(client: TestClient) -> None:
    wide = Image.new("RGB", (400, 300), (200, 90, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = ask(client, png(wide, "JPEG", exif=exif)).json()
    assert (turned["width"], turned["height"]) == (300, 400)
    kinds = {
        "cmyk": png(wide.convert("CMYK"), "JPEG"),
        "deep": png(Image.new("I;16", (400, 300), 40_000)),
        "palette": png(wide.convert("P"), "GIF"),
        "animated": png(wide, "GIF", save_all=True, append_images=[wide.rotate(180)]),
        "webp": png(wide, "WEBP"),
        "alpha": png(wide.convert("RGBA")),
        "grey": png(wide.convert("L")),
    }
    for kind, content in kinds.items():
        response = ask(client, content)
        assert response.status_code == 200, (kind, response.text)
        assert (response.json()["width"], response.json()["height"]) == (400, 300), kind


def test_what_is_no_photo_is_a_problem_that_says_why(client: TestClient) -> None:
    whole = png(Image.effect_noise((300, 200), 80), "JPEG")
    refused = {
        "torn": (whole[: len(whole) // 2], "cannot be read as an image"),
        "text": (b"not an image", "cannot be read as an image"),
        "empty": (b"", "cannot be read as an image"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read as an image"),
        "bomb": (png(Image.new("1", (20_000, 20_000))), "exceeds limit"),
        "large": (png(Image.new("1", (2_000, 2_000))), "more than 1000000 pixels"),
        "thread": (png(Image.new("RGB", (30_000, 2))), "15000"),
    }
    for kind, (content, words) in refused.items():
        response = ask(client, content)
        assert response.status_code == 422, (kind, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        assert kind == "thread" or words in response.text, (kind, response.text)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"json": {"image": "%%%"}}, 422),
        ({"json": {"image": "aGk=", "samples": 0}}, 422),
        ({"json": {"image": "aGk=", "temprature": 1}}, 422),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422),
        ({"content": b"x", "headers": {"Content-Type": "image/png"}}, 415),
        ({"data": {"question": "?"}, "files": {"photo": b"x"}}, 422),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
    ],
)
def test_requests_that_cannot_be_read_are_problems(client: TestClient, body: dict[str, Any], status: int) -> None:
    response = client.post("/v1/point", **body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"


def test_token_samples_and_words_of_the_model_s_own_are_refused(client: TestClient, scenes: Any) -> None:
    assert client.post("/v1/point", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert ask(client, scenes[0][0], samples=9).status_code == 413
    assert ask(client, scenes[0][0], question="<|image_pad|>?").status_code == 422
    assert client.get("/readyz").json() == {"ready": True}
