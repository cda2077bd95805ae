"""The driver's door to the reward: Arrow shards through the Serve deployment handle.

    rollout shard (a reference) --start--> replica --result--> SCORES table
                                              ^--- a replica that is silent is killed, a service that is gone deployed

Scoring is idempotent, so a call that was lost with its replica is sent again. Errors of the reward itself are raised at
once, as they came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import pyarrow as pa
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from services.http.retry import Retry, RewardServiceError

RETRIED = (
    RayActorError,
    GetTimeoutError,
    TimeoutError,
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
LOOK_S = 1.0  # how often a call that waits looks after the service


class Keeper(Protocol):
    """Keeps the service up; see services.reward.keeper."""

    def look(self) -> DeploymentHandle[Any] | None:
        """Mends what it can; a new handle when the service had to be deployed again."""
        ...


class PendingScores:
    """Scores of one shard on their way."""

    def __init__(self, client: HandleClient, shard: ObjectRef[pa.Table]) -> None:
        self._client = client
        self._shard = shard
        self._send()
        self.lost_at: float | None = None  # monotonic seconds of the first failure

    def result(self, *, timeout_s: float | None = None) -> pa.Table:
        """The SCORES table. A call lost with its replica, or not answered in time, is sent again.

        timeout_s bounds the whole wait, attempts and pauses together; each attempt has the client's own bound too.
        Raises RewardServiceError when both are used up.
        """
        client, started = self._client, time.monotonic()
        failure: BaseException | None = None
        for attempt in client.retry.rounds(client.sleep):
            left = client.timeout_s
            if timeout_s is not None:
                left = min(left, started + timeout_s - time.monotonic())
            if left <= 0:
                break
            if attempt:
                self._send()
            try:
                return self._wait(left)
            except RETRIED as error:
                failure = error
                self.lost_at = time.monotonic() if self.lost_at is None else self.lost_at
        waited = time.monotonic() - started
        raise RewardServiceError(
            f"a shard was not scored in {waited:.1f} s and up to {client.retry.attempts} attempts: {failure!r}"
        ) from failure

    def _send(self) -> None:
        self._handle = self._client.handle
        self._response = self._client.send(self._shard)

    def _wait(self, seconds: float) -> pa.Table:
        """The answer to the call under way. Looks after the service meanwhile, and gives a call to a gone one up."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self._response.result(timeout_s=max(0.0, min(LOOK_S, deadline - time.monotonic())))
            except (GetTimeoutError, TimeoutError):
                self._client.look()
                if self._client.handle is not self._handle or time.monotonic() >= deadline:
                    raise


class HandleClient:
    """Scores Arrow shards, one call per shard; the driver sends references only. timeout_s bounds each attempt."""

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        *,
        timeout_s: float = 60.0,
        retry: Retry = Retry(),
        sleep: Callable[[float], None] = time.sleep,
        keeper: Keeper | None = None,
    ) -> None:
        self.handle = handle
        self._keeper = keeper
        self.timeout_s = timeout_s
        self.retry = retry
        self.sleep = sleep

    def look(self) -> None:
        """Looks after the service; `handle` is another one when it was deployed again: what was sent before is lost."""
        handle = None if self._keeper is None else self._keeper.look()
        self.handle = handle or self.handle

    def send(self, shard: ObjectRef[pa.Table]) -> DeploymentResponse[pa.Table]:
        """Sends one shard without waiting. The reference is resolved in the replica."""
        return cast("DeploymentResponse[pa.Table]", self.handle.score_table.remote(shard))

    def start(self, shard: ObjectRef[pa.Table]) -> PendingScores:
        """Starts scoring a shard; `result` of what comes back waits for it."""
        return PendingScores(self, shard)

    def score(self, shards: Sequence[ObjectRef[pa.Table]]) -> list[pa.Table]:
        """Scores all shards at the same time; tables in the order of the shards."""
        pending = [self.start(shard) for shard in shards]
        return [one.result() for one in pending]
