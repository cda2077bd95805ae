"""The HTTP door, without Ray: who gets in, what is refused and in which words."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pointing import rewards
from schemas.config.service import ServiceOptions
from schemas.scoring import RewardRules, ScoreItem, ScoreResponse
from services.reward.routes import build_api
from services.reward.scoring import BuiltIn, answer

OPTIONS = ServiceOptions(port=1, token_env="T", max_body_bytes=20_000, max_items=3)
AUTH = {"Authorization": "Bearer right"}
JSON = {"Content-Type": "application/json"}
GOOD = {"items": [{"response": "<|box_start|>[1, 2, 3, 4]<|box_end|>", "ground_truth": {"obj_bbox": [1, 2, 3, 5]}}]}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(build_api(OPTIONS, "right"), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records every reply that reaches the reward."""
    seen: list[str] = []
    real = rewards.score

    def spy(reply: str, *rest: Any) -> rewards.Score:
        seen.append(reply)
        return real(reply, *rest)

    monkeypatch.setattr(rewards, "score", spy)
    return seen


def check_problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = json.loads(response.text, parse_constant=lambda name: pytest.fail(f"{name} in the answer"))
    assert body["status"] == status
    assert {"type", "title", "detail"} <= body.keys()
    assert "Traceback" not in response.text
    assert 'File "' not in response.text
    return body


def test_scores_in_order_with_ids(client: TestClient) -> None:
    items = [{**GOOD["items"][0], "id": "a"}, {"response": "x", "ground_truth": None}, {"response": "", "id": "c"}]
    response = client.post("/v1/score", json={"items": items}, headers=AUTH)
    assert response.status_code == 200
    expected = answer([ScoreItem.model_validate(item) for item in items], BuiltIn(OPTIONS.rules))
    assert ScoreResponse.model_validate(response.json()).scores == expected
    assert [s.id for s in expected] == ["a", None, "c"]
    assert expected[0].terms["obj_iou"] == pytest.approx(2 / 3, rel=1e-15)


@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Bearer ", "Bearer righ", "Basic right", "right", "Bearer right2", "Bearer Right"]
)
def test_without_the_token_nothing_is_read_or_scored(client: TestClient, scored: list[str], given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    response = client.post("/v1/score", json=GOOD, headers=headers)
    check_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/rewards", "/openapi.json", "/nothing"):
        check_problem(client.get(path, headers=headers), 401)
    assert scored == []
    assert client.get("/healthz", headers=headers).json() == {"ok": True}
    assert client.get("/readyz", headers=headers).json() == {"ready": True}


def test_the_token_is_checked_before_the_body_arrives() -> None:
    app = build_api(OPTIONS, "right")
    scope = {
        "type": "http", "method": "POST", "path": "/v1/score", "root_path": "", "query_string": b"", "headers": [],
        "http_version": "1.1", "scheme": "http",
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        pytest.fail("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    import asyncio

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(
    "body",
    [
        b'{"items":NaN}',
        b'{"items":[{"response":"","ground_truth":{"obj_bbox":[NaN,1,2,3]}}]}',
        b'{"items":[{"response":"","ground_truth":{"obj_bbox":[1,1,Infinity,3]}}]}',
        b'{"items":[{"response":"","ground_truth":{"obj_bbox":[1,1,-Infinity,3]}}]}',
        b'{"items":[{"response":"","ground_truth":{"obj_bbox":[1,1,1e999,3]}}]}',
        b'{"items":[{"response":3}]}',
        b'{"items":[{"response":null}]}',
        b'{"items":[]}',
        b'{"items":{}}',
        b'{"items":[{"response":"","surprise":1}]}',
        b'{"items":[{"response":"","\\ud800":1}]}',
        b'{"items":[{"response":"","id":"\\ud800"}]}',
        b'{"items":[{"response":"","frame":{"original_size":[' + b"9" * 400 + b",1]}}]}",
        b'{"items":[{"response":"","frame":{"kind":"inches","original_size":[1,1]}}]}',
        b'{"items":[{"response":"","frame":{"original_size":[0,1]}}]}',
        b'{"items":[{"response":"","frame":{"original_size":[NaN,1]}}]}',
        b"[]",
        b"3",
        b"",
        b"{",
        b"\xff\xfe",
        b'{"items":' + b"[" * 9000,
        b'{"items":[{"response":"","ground_truth":' + b"9" * 5000 + b"}]}",
    ],
)
def test_what_is_not_a_request_gets_a_problem(client: TestClient, scored: list[str], body: bytes) -> None:
    response = client.post("/v1/score", content=body, headers={**AUTH, **JSON})
    assert response.status_code in (400, 422)
    text = json.dumps(check_problem(response, response.status_code))
    assert "surprise" not in text or "extra_forbidden" in text
    assert len(text) < 2000
    assert scored == []


def test_errors_name_the_place_and_echo_no_input(client: TestClient) -> None:
    body = {"items": [GOOD["items"][0], {"response": 12345678901}]}
    problem = check_problem(client.post("/v1/score", json=body, headers=AUTH), 422)
    assert problem["errors"][0]["loc"] == ["body", "items", 1, "response"]
    assert "12345678901" not in json.dumps(problem)


def test_a_body_of_another_type_is_refused(client: TestClient) -> None:
    plain = {**AUTH, "Content-Type": "text/plain"}
    check_problem(client.post("/v1/score", content=json.dumps(GOOD), headers=plain), 422)


def test_bodies_beyond_the_limit_are_refused_by_declared_and_by_counted_length(
    client: TestClient, scored: list[str]
) -> None:
    large = json.dumps({"items": [{"response": "x" * 30_000}]}).encode()
    declared = client.post("/v1/score", content=large, headers={**AUTH, **JSON})
    assert "20000 bytes" in check_problem(declared, 413)["detail"]
    streamed = client.post("/v1/score", content=iter([large[:15_000], large[15_000:]]), headers={**AUTH, **JSON})
    check_problem(streamed, 413)
    check_problem(client.post("/v1/score", content=b"{}", headers={**AUTH, **JSON, "Content-Length": "-3"}), 400)
    assert scored == []
    fits = json.dumps({"items": [{"response": "x" * 19_000}]}).encode()
    fitting = client.post("/v1/score", content=iter([fits[:9000], fits[9000:]]), headers={**AUTH, **JSON})
    assert fitting.status_code == 200


def test_more_items_than_allowed_are_refused(client: TestClient, scored: list[str]) -> None:
    problem = check_problem(client.post("/v1/score", json={"items": GOOD["items"] * 4}, headers=AUTH), 413)
    assert problem["detail"] == "4 items, at most 3 per request"
    assert scored == []


def test_unknown_paths_and_methods_are_problems_too(client: TestClient) -> None:
    check_problem(client.get("/nothing", headers=AUTH), 404)
    response = client.get("/v1/score", headers=AUTH)
    check_problem(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("failure", [ValueError("secret detail"), float("nan")])
def test_a_reward_that_fails_is_a_500_without_its_words(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Any
) -> None:
    def broken(*_: object) -> rewards.Score:
        if isinstance(failure, Exception):
            raise failure
        return rewards.Score(failure)

    monkeypatch.setattr(rewards, "score", broken)
    with caplog.at_level(logging.INFO, "ray.serve.reward"):
        response = client.post("/v1/score", json=GOOD, headers={**AUTH, "X-Request-ID": "req-7"})
    text = json.dumps(check_problem(response, 500))
    assert "secret" not in text
    assert "nan" not in text.lower()
    assert "item 0" in caplog.text
    assert caplog.text.count("request_id=req-7") == 2
    check_problem(client.get("/readyz"), 500)


def test_each_request_is_logged_once_with_a_plain_request_id(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.reward"):
        client.get("/healthz", headers={"X-Request-ID": "abc-1"})
        client.get("/healthz", headers={"X-Request-ID": "x" * 65})
        client.get("/healthz", headers={"X-Request-ID": "bad id=1"})
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].endswith("request_id=abc-1")
    assert "status=200" in lines[0]
    assert "xxxxx" not in lines[1]
    assert "bad id" not in lines[2]


def test_rules_in_force_are_shown() -> None:
    rules = RewardRules(obj_iou=7.5, negative_max=10.0)
    client = TestClient(build_api(ServiceOptions(rules=rules)))
    assert client.get("/v1/rewards").json() == {"rules": rules.model_dump(), "function": None, "function_kwargs": {}}
    assert client.post("/v1/score", json=GOOD).json()["scores"][0]["reward"] == pytest.approx(7.5 * 2 / 3 + 1.8)


def test_openapi_holds_a_worked_example_that_is_true(client: TestClient) -> None:
    contract = client.get("/openapi.json", headers=AUTH).json()
    operation = contract["paths"]["/v1/score"]["post"]
    request = contract["components"]["schemas"]["ScoreRequest"]["examples"][0]
    promised = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert client.post("/v1/score", json=request, headers=AUTH).json() == promised
    assert promised["scores"][0]["terms"]["obj_iou"] == 0.8
    assert "application/problem+json" in operation["responses"]["422"]["content"]


def test_a_token_that_is_missing_or_empty_is_refused() -> None:
    for options, token in ((OPTIONS, None), (ServiceOptions(), "x"), (OPTIONS, ""), (OPTIONS, "  ")):
        with pytest.raises(ValueError, match="token"):
            build_api(options, token)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_listening_beyond_this_machine_needs_a_token(host: str) -> None:
    with pytest.raises(ValueError, match="token_env is not set"):
        ServiceOptions(host=host, port=8000)
    assert not ServiceOptions(host=host, port=8000, token_env="T").loopback
    for own in ("127.0.0.1", "::1", "localhost"):
        assert ServiceOptions(host=own, port=8000).loopback


@pytest.mark.parametrize(
    ("truth", "place", "said"),
    [
        ({"obj_bboxx": [1, 2, 3, 4]}, ["ground_truth", "obj_bboxx"], "unknown key"),
        ({"obj_bbox": [1, 2, 3]}, ["ground_truth", "obj_bbox", "3"], "Field required"),
        ({"obj_bbox": [1, 2, 3, "4"]}, ["ground_truth", "obj_bbox", "3"], "'4'"),
        ("nine", ["ground_truth"], "neither JSON nor"),
        ({}, ["ground_truth"], "has none of hand_bbox"),
    ],
)
def test_ground_truth_with_a_typo_is_refused_and_does_not_score_0(truth: object, place: list[str], said: str) -> None:
    client = TestClient(build_api(ServiceOptions()))
    items = [{"response": "", "ground_truth": None}, {"response": "", "ground_truth": truth}]
    answer = client.post("/v1/score", json={"items": items})
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["loc"] == ["body", "items", 1, *place]
    assert said in error["msg"]


def test_a_typo_in_a_line_is_named_by_its_line() -> None:
    client = TestClient(build_api(ServiceOptions()))
    lines = '{"response": "", "ground_truth": null}\n\n{"response": "", "ground_truth": {"obj_bboxx": [1, 2, 3, 4]}}\n'
    answer = client.post("/v1/evaluate", content=lines, headers={"content-type": "application/jsonl"})
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["loc"] == ["line", 3, "ground_truth", "obj_bboxx"]
    assert "unknown key" in error["msg"]


def test_a_browser_without_the_token_finds_a_page_that_says_how_to_call(client: TestClient) -> None:
    refused = check_problem(client.get("/openapi.json"), 401)
    assert "/docs says how" in refused["detail"]
    page = client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    contract = client.get("/openapi.json", headers=AUTH).json()
    assert set(contract["paths"]) == set(re.findall(r"<h2><code>[A-Z]+ ([^<]+)</code></h2>", page.text))
    assert "curl -H &quot;Authorization: Bearer $TOKEN&quot;" in page.text
    assert not re.findall(r"(?:src|href)=", page.text)  # nothing from elsewhere
    assert "Bearer" not in TestClient(build_api(ServiceOptions())).get("/docs").text
