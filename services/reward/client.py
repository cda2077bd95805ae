"""HTTP clients of the reward service, one that blocks and one for asyncio. What was lost is sent again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from schemas.evaluation import EvaluationReport
from schemas.scoring import ActiveReward, ItemScore, ScoreItem
from services.http.exchange import Call, Exchange, evaluate_call, parts, read_scores, score_call
from services.http.retry import Retry, RewardServiceError

REWARDS, READY = Call("GET", "/v1/rewards"), Call("GET", "/readyz")


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _sent(call: Call) -> dict[str, Any]:
    timeout = httpx.USE_CLIENT_DEFAULT if call.timeout_s is None else call.timeout_s
    return {"json": call.body, "params": call.params, "timeout": timeout}


class RewardClient:
    """Scores over HTTP. Use as a context manager; may be shared by threads.

    url: the service's root, as "http://127.0.0.1:8100". items_per_request: longer lists are sent in parts. timeout_s
    bounds each attempt. Raises RewardServiceError with the service's own words; see Exchange for what is repeated.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        items_per_request: int = 256,
        retry: Retry = Retry(),
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(token), timeout=timeout_s, transport=transport)
        self._items_per_request = items_per_request
        self._retry = retry
        self._sleep = sleep

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def score(self, items: Sequence[ScoreItem]) -> tuple[ItemScore, ...]:
        """One score for each item, in order."""
        scores: list[ItemScore] = []
        for part in parts(items, self._items_per_request):
            scores.extend(read_scores(part, self._answer(score_call(part))))
        return tuple(scores)

    def evaluate(
        self, items: Sequence[ScoreItem], confidence: float = 0.95, *, timeout_s: float = 300.0
    ) -> EvaluationReport:
        """Metrics of a whole prediction set, sent at once."""
        return EvaluationReport.model_validate(self._answer(evaluate_call(items, confidence, timeout_s)))

    def active(self) -> ActiveReward:
        """The reward in force at the service."""
        return ActiveReward.model_validate(self._answer(REWARDS))

    def wait_ready(self) -> None:
        """Returns once the service can score; raises when the attempts are used up."""
        self._answer(READY)

    def _answer(self, call: Call) -> Any:
        exchange = Exchange(call, self._retry)
        while True:
            try:
                response = self._http.request(call.method, call.path, **_sent(call))
                pause = exchange.take(response)
                if pause is None:
                    return response.json()
            except httpx.TransportError as error:
                pause = exchange.take(error)
            self._sleep(pause or 0.0)


class AsyncRewardClient:
    """RewardClient for asyncio: the same arguments and errors; parts of a long list are sent side by side.

    at_once: how many of these requests are under way together.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        items_per_request: int = 256,
        at_once: int = 8,
        retry: Retry = Retry(),
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(token), timeout=timeout_s, transport=transport)
        self._items_per_request = items_per_request
        self._free = asyncio.Semaphore(at_once)
        self._retry = retry
        self._sleep = sleep

    async def __aenter__(self) -> AsyncRewardClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def score(self, items: Sequence[ScoreItem]) -> tuple[ItemScore, ...]:
        """One score for each item, in order."""
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._score(part)) for part in parts(items, self._items_per_request)]
        except* RewardServiceError as several:
            first: BaseException = several
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None
        return tuple(score for task in asked for score in task.result())

    async def _score(self, part: tuple[ScoreItem, ...]) -> tuple[ItemScore, ...]:
        async with self._free:
            return read_scores(part, await self._answer(score_call(part)))

    async def evaluate(
        self, items: Sequence[ScoreItem], confidence: float = 0.95, *, timeout_s: float = 300.0
    ) -> EvaluationReport:
        """Metrics of a whole prediction set, sent at once."""
        answer = await self._answer(evaluate_call(items, confidence, timeout_s))
        return EvaluationReport.model_validate(answer)

    async def active(self) -> ActiveReward:
        """The reward in force at the service."""
        return ActiveReward.model_validate(await self._answer(REWARDS))

    async def wait_ready(self) -> None:
        """Returns once the service can score; raises when the attempts are used up."""
        await self._answer(READY)

    async def _answer(self, call: Call) -> Any:
        exchange = Exchange(call, self._retry)
        while True:
            try:
                response = await self._http.request(call.method, call.path, **_sent(call))
                pause = exchange.take(response)
                if pause is None:
                    return response.json()
            except httpx.TransportError as error:
                pause = exchange.take(error)
            await self._sleep(pause or 0.0)
