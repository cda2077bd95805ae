"""POST /v1/evaluate: a whole prediction set, JSON or JSON Lines, to metrics by size of the target with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pointing.metrics import measure, summarise
from schemas.config.service import ServiceOptions
from schemas.evaluation import EvaluationReport
from schemas.scoring import RewardRules, ScoreItem
from services.reward.evaluation import evaluate
from services.reward.routes import build_api
from services.reward.scoring import BuiltIn, Item, Scored, ScoringError, item_of

OPTIONS = ServiceOptions(
    rules=RewardRules(negative_max=10), port=8100, max_evaluation_items=20, max_evaluation_bytes=50_000
)
FRAME = {"kind": "pixels", "original_size": [1000, 1000]}


def box(*corners: int) -> str:
    return f"<|box_start|>{list(corners)}<|box_end|>"


ITEMS: list[dict[str, Any]] = [
    {"id": "small", "response": box(0, 0, 50, 50), "ground_truth": {"obj_bbox": [0, 0, 50, 50]}, "frame": FRAME},
    {"id": "half", "response": box(0, 0, 50, 50), "ground_truth": {"obj_bbox": [0, 0, 50, 25]}, "frame": FRAME},
    {"id": "large", "response": box(0, 0, 9, 9), "ground_truth": {"obj_bbox": [0, 0, 500, 500]}, "frame": FRAME},
    {"id": "sizeless", "response": "", "ground_truth": {"obj_bbox": [0, 0, 500, 500]}},
    {"id": "negative", "response": "nothing", "ground_truth": None},
]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(build_api(OPTIONS), raise_server_exceptions=False) as client:
        yield client


def lines(items: list[dict[str, Any]]) -> bytes:
    return b"\n".join(json.dumps(item).encode() for item in items) + b"\n"


def test_metrics_by_hand(client: TestClient) -> None:
    report = EvaluationReport.model_validate(client.post("/v1/evaluate", json={"items": ITEMS}).json())
    assert (report.replies, report.positives, report.negatives, report.confidence) == (5, 4, 1, 0.95)
    iou = report.metrics["object_iou"]
    assert iou.mean == pytest.approx((1 + 0.5 + 81 / 250_000 + 0) / 4)
    assert iou.count == 4
    assert iou.low is not None
    assert iou.high is not None
    assert iou.low < iou.mean < iou.high
    assert report.metrics["object_acc_50"].mean == 0.5
    assert report.metrics["false_alarm_rate"].mean == 0
    assert report.metrics["false_alarm_rate"].high == pytest.approx(1.96**2 / (1 + 1.96**2), rel=1e-3)
    small, large = report.by_size["small"], report.by_size["large"]
    assert (small["object_acc_75"].mean, small["object_acc_50"].mean, small["object_iou"].count) == (0.5, 1.0, 2)
    assert (large["object_iou"].count, large["object_iou"].low) == (1, None)
    assert report.by_size["medium"] == {}
    assert not any(name.endswith(("small", "medium", "large")) for name in report.metrics)
    rewards = [5 + 1.8, 2.5 + 1.8, 5 * 81 / 250_000 + 1.8, 0, 10]
    assert report.reward.mean == pytest.approx(math.fsum(rewards) / 5)


@pytest.mark.parametrize(
    "kind", ["application/jsonl", "application/x-ndjson; charset=utf-8", "Application/X-JSONLines"]
)
def test_json_lines_give_the_same_report(client: TestClient, kind: str) -> None:
    expected = client.post("/v1/evaluate", json={"items": ITEMS}).json()
    for body in (lines(ITEMS), b"\n" + lines(ITEMS).replace(b"\n", b"\r\n\r\n")):
        assert client.post("/v1/evaluate", content=body, headers={"Content-Type": kind}).json() == expected


def test_the_service_s_numbers_are_those_of_the_functions(client: TestClient) -> None:
    report = client.post("/v1/evaluate?confidence=0.8", json={"items": ITEMS}).json()
    items = [item_of(ScoreItem.model_validate(item)) for item in ITEMS]
    assert report == evaluate(items, BuiltIn(OPTIONS.rules), 0.8).model_dump(mode="json")
    summary = summarise([measure(item.reply, item.truth, item.frame) for item in items])
    assert {name: one["mean"] for name, one in report["metrics"].items()} == {
        name: one.mean for name, one in summary.estimates.items() if name in report["metrics"]
    }


def test_items_of_one_id_are_draws_of_one_task(client: TestClient) -> None:
    """Three equal draws of every task bound nothing more tightly than one draw; without ids they would."""
    once = client.post("/v1/evaluate", json={"items": ITEMS}).json()
    drawn = client.post("/v1/evaluate", json={"items": ITEMS * 3}).json()
    assert drawn["replies"] == 15
    for key in ("metrics", "by_size"):
        assert bounds(drawn[key]) == pytest.approx(bounds(once[key]))
    assert bounds(drawn["reward"]) == pytest.approx(bounds(once["reward"]))
    nameless = [{key: value for key, value in item.items() if key != "id"} for item in ITEMS * 3]
    apart = client.post("/v1/evaluate", json={"items": nameless}).json()
    assert apart["reward"]["standard_error"] < 0.7 * once["reward"]["standard_error"]


def bounds(report: Any, path: str = "") -> dict[str, float]:
    """Every error and bound of a report, by where it stands."""
    found: dict[str, float] = {}
    for key, value in report.items():
        if isinstance(value, dict):
            found |= bounds(value, f"{path}{key}.")
        elif key in ("standard_error", "low", "high") and value is not None:
            found[path + key] = value
    return found


def test_more_confidence_is_a_wider_interval(client: TestClient) -> None:
    widths = []
    for confidence in (0.5, 0.9, 0.999):
        known = client.post(f"/v1/evaluate?confidence={confidence}", json={"items": ITEMS}).json()["metrics"]
        widths.append([one["high"] - one["low"] for one in known.values() if one["low"] is not None])
    for narrow, wide in pairwise(widths):
        assert all(a <= b for a, b in zip(narrow, wide, strict=True))
        assert sum(narrow) < sum(wide)


@pytest.mark.parametrize(
    ("body", "kind", "status", "place"),
    [
        (b'{"response": ""}\n{"response": 3}', "application/jsonl", 422, ["line", 2, "response"]),
        (b'{"response": ""}\n\n{', "application/jsonl", 422, ["line", 3]),
        (b'{"response": "", "ground_truth": {"x": NaN}}', "application/jsonl", 422, ["line", 1]),
        (b'{"response": "", "ground_truth": {"x": 1e999}}', "application/jsonl", 422, ["line", 1]),
        (b'{"response": "\xff"}', "application/jsonl", 422, ["line", 1]),
        (b'{"response": "", "id": "\\ud800"}', "application/jsonl", 422, ["line", 1, "id"]),
        (b"9" * 5000, "application/jsonl", 422, ["line", 1]),
        (b"[" * 30_000, "application/jsonl", 422, ["line", 1]),
        (b"\n \n", "application/jsonl", 422, ["body"]),
        (b"", "application/jsonl", 422, ["body"]),
        (b"", "application/json", 422, ["body"]),
        (b"{}", "application/json", 422, ["body", "items"]),
        (b'{"items": [{"response": "", "frame": {"original_size": [1e7, 1]}}]}', "application/json", 422, None),
        (b"{}", "text/csv", 415, None),
        (b"{}", "", 415, None),
    ],
)
def test_what_cannot_be_read_is_named_by_place(
    client: TestClient, body: bytes, kind: str, status: int, place: list[Any] | None
) -> None:
    response = client.post("/v1/evaluate", content=body, headers={"Content-Type": kind})
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    if place is not None:
        assert response.json()["errors"][0]["loc"] == place
    assert len(response.text) < 4000


def test_the_errors_of_many_lines_are_cut(client: TestClient) -> None:
    response = client.post("/v1/evaluate", content=b"{\n" * 10_000, headers={"Content-Type": "application/jsonl"})
    assert response.status_code == 422
    assert len(response.json()["errors"]) == 10


@pytest.mark.parametrize("confidence", ["0.4", "1", "nan", "inf", "x", "0.99999999"])
def test_confidence_is_bounded(client: TestClient, confidence: str) -> None:
    assert client.post(f"/v1/evaluate?confidence={confidence}", json={"items": ITEMS}).status_code == 422


def test_limits_of_its_own(client: TestClient) -> None:
    many = client.post("/v1/evaluate", json={"items": [{"response": ""}] * 21})
    assert (many.status_code, many.json()["detail"]) == (413, "21 items, at most 20 per request")
    assert client.post("/v1/evaluate", json={"items": [{"response": "x" * 60_000}]}).status_code == 413
    assert client.post("/v1/evaluate", json={"items": [{"response": "x" * 40_000}]}).status_code == 200


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def test_the_worked_example_is_true() -> None:
    client = TestClient(build_api(ServiceOptions()))
    operation = client.get("/openapi.json").json()["paths"]["/v1/evaluate"]["post"]
    promised = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert promised["metrics"]["object_iou"]["mean"] == 1.0
    for kind, content in operation["requestBody"]["content"].items():
        body = content["example"] if isinstance(content["example"], str) else json.dumps(content["example"])
        answer = client.post("/v1/evaluate", content=body, headers={"Content-Type": kind})
        assert without_nulls(answer.json()) == promised, kind


def test_rewards_too_large_to_average_are_an_error() -> None:
    class Huge:
        def score(self, items: Any) -> list[Scored]:
            return [Scored(1.7e308, {}) for _ in items]

        def check(self) -> None: ...
        def close(self) -> None: ...

    with pytest.raises(ScoringError, match="too large to average"):
        evaluate([Item("", None)] * 3, Huge())
