"""What Serve's proxy answers by itself becomes a problem document; what the application answers is left alone."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from services.http.error_responses import problem
from services.http.proxy import PROXY_ENV, ProxyProblems, middlewares


def answered(app: Any, path: str = "/v1/score") -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(ProxyProblems(app)), base_url="http://p") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("status", "headers", "becomes", "retry_after"),
    [
        (429, {"retry-after": "3"}, 429, "3"),
        (429, {}, 429, "1"),
        (408, {}, 408, None),
        (404, {}, 503, "1"),
        (500, {}, 503, "1"),
        (503, {}, 503, "1"),
    ],
)
def test_serves_own_answers(status: int, headers: dict[str, str], becomes: int, retry_after: str | None) -> None:
    secret = PlainTextResponse("replica 7 at 10.0.0.1", status, {"x-request-id": "r1", **headers})
    response = answered(secret)
    assert (response.status_code, response.json()["status"]) == (becomes, becomes)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers.get("retry-after") == retry_after
    assert response.headers["x-request-id"] == "r1"
    assert "10.0.0.1" not in response.text


def test_no_answer_at_all_is_a_lost_replica() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return

    response = answered(silent)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    "answer",
    [JSONResponse({"a": 1}), problem(404, "no"), problem(500, "x"), PlainTextResponse("ok")],
)
def test_the_application_s_answers_pass(answer: Response) -> None:
    response = answered(answer)
    assert (response.status_code, response.content) == (answer.status_code, answer.body)


def test_serves_own_pages_pass() -> None:
    assert answered(PlainTextResponse("unhealthy", 503), "/-/healthz").text == "unhealthy"


def test_the_environment_names_what_serve_is_to_call() -> None:
    (target,) = PROXY_ENV.values()
    assert target == f"{middlewares.__module__}.{middlewares.__name__}"
    assert [one.cls for one in middlewares()] == [ProxyProblems]
