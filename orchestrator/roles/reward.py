"""The reward service as the driver sees it: a shard in, its SCORES rows to wait for, whatever happens to a replica."""

from __future__ import annotations

import pyarrow as pa
from ray import serve
from ray.exceptions import RayTaskError

from actors.group import GroupError
from orchestrator.recovery.recoveries import Recoveries
from orchestrator.roles.dispatch import ShardRef
from schemas.config import TrainConfig
from services.reward.deployment import APP_NAME, deploy
from services.reward.handle import HandleClient
from services.reward.keeper import ServiceKeeper


class RewardRole:
    """The reward service, through its deployment handle: one call per shard."""

    def __init__(self, config: TrainConfig, recoveries: Recoveries) -> None:
        # Named after the run: runs that share a cluster each have their own.
        self._app = f"{APP_NAME}-{config.run.name}"
        self._recoveries = recoveries
        self._client = HandleClient(
            deploy(config.reward, self._app),
            timeout_s=config.reward.request_timeout_s,
            keeper=ServiceKeeper(config.reward, self._app, config.resources.silence_timeout_s),
        )

    def score(self, shard: ShardRef) -> PendingReward:
        """Starts scoring a shard; the table travels by reference. A call lost with its replica is sent again."""
        return PendingReward(self._client, shard, self._recoveries)

    def stop(self) -> None:
        """Takes the application down; others on the same cluster stay."""
        serve.delete(self._app)


class PendingReward:
    """SCORES rows of one shard on their way."""

    def __init__(self, client: HandleClient, shard: ShardRef, recoveries: Recoveries) -> None:
        self._client = client
        self._shard = shard
        self._recoveries = recoveries
        self._scores = client.start(shard.rollout)

    def result(self, *, timeout_s: float) -> pa.Table:
        """The rows; timeout_s bounds each attempt. A reward that raises is asked once more.

        Raises RewardServiceError when the service does not come back in the attempts allowed, GroupError when it raises
        the same again.
        """
        try:
            table = self._scores.result(timeout_s=timeout_s)
        except RayTaskError as error:
            detail = f"{type(error.cause).__name__}: {error.cause}"
            failure = GroupError("reward", (), f"score of {self._shard.name}", "raised", detail)
            failure.cause = error
            loss = self._recoveries.begin(failure)
            self._scores = self._client.start(self._shard.rollout)
            table = self.result(timeout_s=timeout_s)
            self._recoveries.end(loss)
            return table
        if self._scores.lost_at is not None:
            self._recoveries.mended("reward", self._scores.lost_at)
        return table
