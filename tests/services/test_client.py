"""The HTTP client: what it repeats, what it does not, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from schemas.scoring import ScoreItem, ScoreRequest
from schemas.service import ServiceOptions
from services.api import build_api
from services.client import RewardClient
from services.retry import Retry, RewardServiceError
from services.scoring import BuiltIn, answer

ITEMS = [ScoreItem(id=str(k), response=f"<|box_start|>[0, 0, {k}, 9]<|box_end|>") for k in range(1, 8)]
RULES = ServiceOptions().rules
REWARD = BuiltIn(RULES)


def served(request: httpx.Request) -> httpx.Response:
    items = ScoreRequest.model_validate_json(request.content).items
    return httpx.Response(200, json={"scores": [s.model_dump() for s in answer(items, REWARD)]})


def make(respond: Callable[[httpx.Request], httpx.Response], pauses: list[float], **options: Any) -> RewardClient:
    return RewardClient("http://reward", "tok", transport=httpx.MockTransport(respond), sleep=pauses.append, **options)


@pytest.mark.parametrize("failure", [500, 503, 429, 408, httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
def test_lost_calls_are_repeated_with_growing_pauses(failure: int | Exception) -> None:
    calls: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if len(calls) < 4:
            if isinstance(failure, Exception):
                raise failure
            return httpx.Response(failure)
        return served(request)

    pauses: list[float] = []
    with make(respond, pauses, retry=Retry(attempts=4, backoff_s=1.0, longest_s=3.0)) as client:
        assert client.score(ITEMS) == answer(ITEMS, REWARD)
    assert len({call.content for call in calls}) == 1
    assert calls[0].headers["authorization"] == "Bearer tok"
    for pause, middle in zip(pauses, (1.0, 2.0, 3.0), strict=True):
        assert 0.5 * middle <= pause <= 1.5 * middle


def test_attempts_are_bounded_and_the_last_words_reported() -> None:
    pauses: list[float] = []
    problem = {"title": "Service Unavailable", "detail": "come back", "status": 503}
    client = make(lambda _: httpx.Response(503, json=problem), pauses, retry=Retry(attempts=3))
    with pytest.raises(RewardServiceError, match="POST /v1/score: 503 Service Unavailable: come back"):
        client.score(ITEMS)
    assert len(pauses) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_request_at_fault_is_not_repeated(status: int) -> None:
    pauses: list[float] = []
    client = make(lambda _: httpx.Response(status, text="<html>"), pauses)
    with pytest.raises(RewardServiceError, match=str(status)):
        client.score(ITEMS)
    assert pauses == []


def test_long_lists_are_sent_in_parts_and_joined_in_order() -> None:
    sizes: list[int] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sizes.append(len(ScoreRequest.model_validate_json(request.content).items))
        return served(request)

    client = make(respond, [], items_per_request=3)
    assert client.score(ITEMS) == answer(ITEMS, REWARD)
    assert sizes == [3, 3, 1]
    assert client.score([]) == ()


def test_an_answer_of_the_wrong_length_or_shape_is_an_error() -> None:
    client = make(lambda _: httpx.Response(200, json={"scores": []}), [])
    with pytest.raises(RewardServiceError, match="sent 7 items and got 0"):
        client.score(ITEMS)
    client = make(lambda _: httpx.Response(200, json={"scores": [{"reward": None, "terms": {}}]}), [])
    with pytest.raises(ValueError, match="reward"):
        client.score(ITEMS[:1])


def test_it_speaks_the_service_s_own_contract() -> None:
    from fastapi.testclient import TestClient

    inner = TestClient(build_api(ServiceOptions()))

    def respond(request: httpx.Request) -> httpx.Response:
        got = inner.request(request.method, request.url.path, content=request.content, headers=dict(request.headers))
        return httpx.Response(got.status_code, content=got.content)

    with make(respond, []) as client:
        client.wait_ready()
        assert client.active().rules == RULES
        assert client.score(ITEMS) == answer(ITEMS, REWARD)


def test_retry_needs_an_attempt() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Retry(attempts=0)
