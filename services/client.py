"""An HTTP client of the reward service. Scoring is idempotent, so a request that was lost is sent again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import httpx

from schemas.scoring import ItemScore, RewardRules, ScoreItem, ScoreRequest, ScoreResponse
from services.retry import Retry, RewardServiceError

RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class RewardClient:
    """Scores over HTTP. Use as a context manager.

    url: the service's root, as "http://127.0.0.1:8100". items_per_request: longer lists are sent in parts. timeout_s
    bounds each attempt. Raises RewardServiceError with the service's own words; a 4xx is not repeated.
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
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport)
        self._items_per_request = items_per_request
        self._retry = retry
        self._sleep = sleep

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def score(self, items: Sequence[ScoreItem]) -> tuple[ItemScore, ...]:
        """One score for each item, in order."""
        scores: list[ItemScore] = []
        for start in range(0, len(items), self._items_per_request):
            part = tuple(items[start : start + self._items_per_request])
            body = ScoreRequest(items=part).model_dump(mode="json")
            answered = ScoreResponse.model_validate(self._call("POST", "/v1/score", body)).scores
            if len(answered) != len(part):
                raise RewardServiceError(f"sent {len(part)} items and got {len(answered)} scores back")
            scores.extend(answered)
        return tuple(scores)

    def rules(self) -> RewardRules:
        """The rules in force at the service."""
        return RewardRules.model_validate(self._call("GET", "/v1/rewards"))

    def wait_ready(self) -> None:
        """Returns once the service can score; raises when the attempts are used up."""
        self._call("GET", "/readyz")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        said = "no attempt was made"
        for _ in self._retry.rounds(self._sleep):
            try:
                response = self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                said = f"{type(error).__name__}: {error}"
                continue
            if response.is_success:
                return response.json()
            said = _words(response)
            if response.status_code not in RETRIED_STATUS:
                break
        raise RewardServiceError(f"{method} {self._http.base_url.join(path)}: {said}")


def _words(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{response.status_code} {problem['title']}: {problem['detail']} {problem.get('errors', '')}".rstrip()
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"
