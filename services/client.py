"""Callers of the reward service, with bounded retries: scoring is idempotent, so a lost call is sent again.

RewardClient goes over HTTP. HandleClient goes through the Serve deployment handle and is what the driver uses.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx
import pyarrow as pa
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from schemas.scoring import ItemScore, RewardRules, ScoreItem, ScoreRequest, ScoreResponse

RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
RETRIED_RAY = (RayActorError, GetTimeoutError, TimeoutError, BackPressureError)


class RewardServiceError(RuntimeError):
    """The service refused a request, or could not be reached within the attempts allowed."""


@dataclass(frozen=True, slots=True)
class Retry:
    """At most `attempts` calls, with pauses that double from `backoff_s` up to `longest_s`, each times 0.5 to 1.5.

    >>> [round(Retry(backoff_s=1, longest_s=3).pause(n, jitter=1.0)) for n in range(3)]
    [1, 2, 3]
    """

    attempts: int = 5
    backoff_s: float = 0.5
    longest_s: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")

    def pause(self, failures: int, jitter: float) -> float:
        """Seconds to wait after so many failures before this one."""
        return min(self.longest_s, self.backoff_s * 2**failures) * jitter

    def rounds(self, sleep: Callable[[float], None]) -> Iterator[int]:
        """Yields the number of each attempt, sleeping in between."""
        for attempt in range(self.attempts):
            if attempt:
                sleep(self.pause(attempt - 1, random.uniform(0.5, 1.5)))
            yield attempt


class RewardClient:
    """Scores over HTTP. Use as a context manager.

    url: the service's root, as "http://127.0.0.1:8100". items_per_request: longer lists are sent in parts. timeout_s bounds
    each attempt. Raises RewardServiceError with the service's own words; requests at fault (4xx) are not repeated.
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


class PendingScores:
    """Scores of one shard on their way."""

    def __init__(self, client: HandleClient, shard: ObjectRef[pa.Table]) -> None:
        self._client = client
        self._shard = shard
        self._response = client.send(shard)

    def result(self) -> pa.Table:
        """The SCORES table. A call lost with its replica, or not answered in time, is sent again."""
        failure: BaseException | None = None
        for attempt in self._client.retry.rounds(self._client.sleep):
            if attempt:
                self._response = self._client.send(self._shard)
            try:
                return self._response.result(timeout_s=self._client.timeout_s)
            except RETRIED_RAY as error:
                failure = error
        raise RewardServiceError(
            f"a shard was not scored in {self._client.retry.attempts} attempts of {self._client.timeout_s} s: {failure}"
        ) from failure


class HandleClient:
    """Scores Arrow shards through the deployment handle, one call per shard. The driver sends references only.

    timeout_s bounds each attempt. Errors of the reward itself are raised at once as they came.
    """

    def __init__(
        self,
        handle: DeploymentHandle,
        *,
        timeout_s: float = 60.0,
        retry: Retry = Retry(),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._handle = handle
        self.timeout_s = timeout_s
        self.retry = retry
        self.sleep = sleep

    def send(self, shard: ObjectRef[pa.Table]) -> DeploymentResponse:
        """Sends one shard without waiting. The reference is resolved in the replica."""
        return self._handle.score_table.remote(shard)

    def start(self, shard: ObjectRef[pa.Table]) -> PendingScores:
        """Starts scoring a shard; `result` of what comes back waits for it."""
        return PendingScores(self, shard)

    def score(self, shards: Sequence[ObjectRef[pa.Table]]) -> list[pa.Table]:
        """Scores all shards at the same time; tables in the order of the shards."""
        pending = [self.start(shard) for shard in shards]
        return [one.result() for one in pending]
