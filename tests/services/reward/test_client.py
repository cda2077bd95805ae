"""The HTTP client: what it repeats, what it does not, and for how long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from schemas.config.service import ServiceOptions
from schemas.scoring import ScoreItem, ScoreRequest
from services.http.retry import Retry, RewardServiceError
from services.reward.client import AsyncRewardClient, RewardClient
from services.reward.evaluation import evaluate
from services.reward.routes import build_api
from services.reward.scoring import BuiltIn, answer, item_of

ITEMS = [ScoreItem(id=str(k), response=f"<|box_start|>[0, 0, {k}, 9]<|box_end|>") for k in range(1, 8)]
RULES = ServiceOptions().rules
REWARD = BuiltIn(RULES)
JSON = {"Content-Type": "application/json"}


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


# ---- when the service says so ----


@pytest.mark.parametrize(
    ("asked", "longest", "expected"), [("7", 10.0, 7.0), ("9999", 10.0, 10.0), ("soon", 10.0, 0.0)]
)
def test_it_waits_as_long_as_it_is_asked_to_within_its_bound(asked: str, longest: float, expected: float) -> None:
    answers = [httpx.Response(429, headers={"Retry-After": asked})]
    pauses: list[float] = []
    retry = Retry(attempts=2, backoff_s=0.01, longest_s=10.0)
    with make(lambda request: answers.pop() if answers else served(request), pauses, retry=retry) as client:
        assert client.score(ITEMS) == answer(ITEMS, REWARD)
    assert pauses == [pytest.approx(expected, abs=0.02)]


def test_a_reward_that_failed_is_not_asked_for_again() -> None:
    pauses: list[float] = []
    problem = {"title": "Internal Server Error", "status": 500, "detail": "a reward could not be computed"}
    headers = {"Content-Type": "application/problem+json"}
    client = make(lambda _: httpx.Response(500, json=problem, headers=headers), pauses)
    with pytest.raises(RewardServiceError, match="could not be computed"):
        client.score(ITEMS)
    assert pauses == []


def test_scores_of_other_items_are_an_error() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        body = json.loads(served(request).content)
        return httpx.Response(200, json={"scores": body["scores"][::-1]})

    with make(respond, []) as client, pytest.raises(RewardServiceError, match="those of other items"):
        client.score(ITEMS)


def test_evaluation_is_one_request() -> None:
    from fastapi.testclient import TestClient

    inner = TestClient(build_api(ServiceOptions()))
    calls: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        got = inner.post(str(request.url.copy_with(scheme=None, host=None)), content=request.content, headers=JSON)
        return httpx.Response(got.status_code, content=got.content)

    with make(respond, [], items_per_request=2) as client:
        report = client.evaluate(ITEMS, 0.9)
    assert len(calls) == 1
    assert report == evaluate([item_of(item) for item in ITEMS], REWARD, 0.9)


# ---- asyncio ----


def run(respond: Callable[[httpx.Request], httpx.Response], pauses: list[float], **options: Any) -> Any:
    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def score() -> Any:
        transport = httpx.MockTransport(respond)
        async with AsyncRewardClient("http://reward", "tok", transport=transport, sleep=pause, **options) as client:
            return await client.score(ITEMS)

    return asyncio.run(score())


def test_async_repeats_what_was_lost_and_joins_parts_in_order() -> None:
    calls: list[bytes] = []

    def respond(request: httpx.Request) -> httpx.Response:
        calls.append(request.content)
        assert request.headers["authorization"] == "Bearer tok"
        if calls.count(request.content) == 1:
            raise httpx.ReadError("cut")
        return served(request)

    pauses: list[float] = []
    assert run(respond, pauses, items_per_request=2, at_once=3) == answer(ITEMS, REWARD)
    assert (len(calls), len(set(calls)), len(pauses)) == (8, 4, 4)


def test_async_raises_the_same_error_and_bounds_attempts() -> None:
    pauses: list[float] = []
    with pytest.raises(RewardServiceError, match=r"503 Service Unavailable \(after 3 attempts\)"):
        run(lambda _: httpx.Response(503), pauses, retry=Retry(attempts=3), items_per_request=100)
    assert len(pauses) == 2
    with pytest.raises(RewardServiceError, match="401"):
        run(lambda _: httpx.Response(401), [], items_per_request=1)


def test_async_keeps_to_its_number_of_requests_at_once() -> None:
    busy, most = 0, 0

    async def handle(request: httpx.Request) -> httpx.Response:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.01)
        busy -= 1
        return served(request)

    async def score() -> Any:
        transport = httpx.MockTransport(handle)
        async with AsyncRewardClient("http://r", items_per_request=1, at_once=3, transport=transport) as client:
            return await client.score(ITEMS)

    assert asyncio.run(score()) == answer(ITEMS, REWARD)
    assert most == 3


def test_async_speaks_the_whole_contract() -> None:
    async def use() -> None:
        transport = httpx.ASGITransport(build_api(ServiceOptions()))
        async with AsyncRewardClient("http://r", transport=transport) as client:
            await client.wait_ready()
            assert (await client.active()).rules == RULES
            assert await client.score(ITEMS) == answer(ITEMS, REWARD)
            assert (await client.evaluate(ITEMS)).replies == len(ITEMS)

    asyncio.run(use())
