"""What the HTTP clients send, what they make of the answer, and when they ask again; how they wait is their own.

exchange --request--> client sends --response or error--> exchange --> pause and again, or the answer
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import httpx

from schemas.scoring import ItemScore, ScoreItem, ScoreRequest, ScoreResponse
from services.http.retry import Retry, RewardServiceError

RETRIED_STATUS = frozenset({408, 429, 502, 503, 504})
T = TypeVar("T")


class Call(NamedTuple):
    """One request; `body` is sent as JSON. timeout_s None: that of the client.

    >>> Call("GET", "/v1/rewards").body is None
    True
    """

    method: str
    path: str
    body: Any = None
    params: dict[str, str] | None = None
    timeout_s: float | None = None


class Exchange:
    """The attempts of one call. Scoring is idempotent, so whatever was lost is sent again.

    A 4xx is not repeated, except for those that ask to come back; nor is a 500 in the service's own words, which says
    that the reward failed on this very input.
    """

    def __init__(self, call: Call, retry: Retry) -> None:
        self.call = call
        self._retry = retry
        self._failures = 0

    def take(self, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds to wait before the next attempt; None for an answer that can be read. Raises RewardServiceError."""
        asked, final = 0.0, False
        if isinstance(outcome, httpx.Response):
            if outcome.is_success:
                return None
            words, asked, final = _words(outcome), _retry_after(outcome), not _worth_repeating(outcome)
        else:
            words = f"{type(outcome).__name__}: {outcome}"
        self._failures += 1
        pause = None if final else self._retry.next_pause(self._failures, asked)
        if pause is None:
            tried = "" if self._failures == 1 else f" (after {self._failures} attempts)"
            raise RewardServiceError(f"{self.call.method} {self.call.path}: {words}{tried}") from None
        return pause


def _worth_repeating(response: httpx.Response) -> bool:
    if response.status_code == 500:
        return not response.headers.get("content-type", "").startswith("application/problem+json")
    return response.status_code in RETRIED_STATUS


def _retry_after(response: httpx.Response) -> float:
    given = response.headers.get("retry-after", "")
    return float(given) if given.isascii() and given.isdigit() and len(given) < 7 else 0.0


def _words(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{response.status_code} {problem['title']}: {problem['detail']} {problem.get('errors', '')}".rstrip()
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"


def parts(items: Sequence[ScoreItem], size: int) -> Iterator[tuple[ScoreItem, ...]]:
    """The items in order, at most `size` at a time."""
    rest = iter(items)
    while part := tuple(islice(rest, size)):
        yield part


def score_call(part: tuple[ScoreItem, ...]) -> Call:
    """Asks for the scores of some items."""
    return Call("POST", "/v1/score", ScoreRequest(items=part).model_dump(mode="json"))


def evaluate_call(items: Sequence[ScoreItem], confidence: float, timeout_s: float) -> Call:
    """Asks for the metrics of a prediction set."""
    body = ScoreRequest(items=tuple(items)).model_dump(mode="json", exclude_none=True)
    return Call("POST", "/v1/evaluate", body, {"confidence": repr(confidence)}, timeout_s)


def read_scores(part: tuple[ScoreItem, ...], answer: Any) -> tuple[ItemScore, ...]:
    """One score for each item. Raises RewardServiceError if there are more or fewer, or for other items."""
    scores = ScoreResponse.model_validate(answer).scores
    if [score.id for score in scores] != [item.id for item in part]:
        raise RewardServiceError(f"sent {len(part)} items and got {len(scores)} scores back, or those of other items")
    return scores
