"""The driver's side of each role: what to call, what comes back, bounded in time.

    RolloutRole.generate -> Shard refs, as each finishes (orchestrator/rollouts.py)
    RewardRole.score, ReferenceRole.logprobs -> something to wait for, per shard
    LearnerRole.update / local_shards / save / export

The driver moves references. It reads every column but images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray
from ray import serve
from ray.exceptions import RayTaskError

from actors.group import ActorGroup, GroupError, Limits, Share
from actors.learner import LearnerActor
from actors.reference import ReferenceActor
from orchestrator.clock import timed
from orchestrator.dispatch import ShardRef
from orchestrator.durable import DurableGroup
from orchestrator.folder import run_folder
from orchestrator.recoveries import Recoveries
from policy.learner import UpdateReport
from schemas.config import TrainConfig
from services.handle import HandleClient
from services.keeper import ServiceKeeper
from services.reward import APP_NAME, deploy


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


class PendingLogprobs:
    """REFERENCE rows of one shard on their way."""

    def __init__(self, role: ReferenceRole, shard: ShardRef) -> None:
        self._role = role
        self._shard = shard
        self._rank, self._actor, self._ref = role.send(shard)

    def result(self, *, timeout_s: float) -> pa.Table:
        """The rows. A shard whose replica was lost is sent to another; timeout_s bounds each attempt.

        Raises GroupError, RecoveryLimitError as Recoveries.begin does.
        """
        while True:
            try:
                what, refs = f"logprobs of {self._shard.name}", {self._rank: self._ref}
                return self._role.group.gather(what, refs, timeout_s)[self._rank]
            except GroupError as error:
                self._role.lost(error, self._actor)
                self._rank, self._actor, self._ref = self._role.send(self._shard)


class ReferenceRole:
    """Replicas of the reference model; shards go to them in turn."""

    def __init__(self, config: TrainConfig, recoveries: Recoveries) -> None:
        resources = config.resources
        self._next = 0
        self._recoveries = recoveries
        self.group = ActorGroup.spawn(
            "reference",
            ReferenceActor,
            resources.reference_replicas,
            Share(resources.cpus_per_reference, resources.gpus_per_reference, resources.threads),
            place=resources.placement.reference,
            arguments=lambda rank: (
                config.model,
                config.learner,
                config.rollout.sampling.temperature,
                resources.threads,
                config.run.deterministic,
            ),
            limits=Limits.of(resources),
        )

    def logprobs(self, shard: ShardRef) -> PendingLogprobs:
        """Starts scoring a shard's tokens."""
        return PendingLogprobs(self, shard)

    def send(self, shard: ShardRef) -> tuple[int, Any, Any]:
        """Sends a shard to the next replica: its rank, its actor, and a reference to the rows."""
        rank = self._next % len(self.group)
        self._next += 1
        actor = self.group.actors[rank]
        return rank, actor, actor.logprobs.remote(shard.rollout, shard.images)

    def lost(self, error: GroupError, actor: Any) -> None:
        """Restarts the replica of a failed call, unless that was done already, and waits until it has its model."""
        rank = error.ranks[0]
        if self.group.actors[rank] is not actor:
            return
        loss = self._recoveries.begin(error, self.group)
        while not self._back(rank):
            pass
        self._recoveries.end(loss)

    def ready(self) -> None:
        """Returns when every replica has its model."""
        waiting = list(range(len(self.group)))
        while waiting:
            try:
                self._wait_for(waiting)
            except GroupError as error:
                self.lost(error, self.group.actors[error.ranks[0]])
                waiting.remove(error.ranks[0])
            else:
                waiting.clear()

    def _back(self, rank: int) -> bool:
        """Whether a new replica came to have its model."""
        self.group.restart([rank])
        try:
            self._wait_for([rank])
        except GroupError as again:
            self._recoveries.begin(again, self.group)
            return False
        return True

    def _wait_for(self, ranks: Sequence[int]) -> None:
        refs = {rank: self.group.actors[rank].ready.remote() for rank in ranks}
        self.group.gather("start", refs, self.group.limits.start_s)


class NoReference:
    """Stands where no reference model is needed."""

    def logprobs(self, shard: ShardRef) -> None:
        """Nothing to compute."""

    def ready(self) -> None:
        """Nothing to wait for."""


class LearnerRole:
    """All learner ranks; each call runs on every rank, and survives the loss of any of them."""

    def __init__(self, config: TrainConfig, total_steps: int, recoveries: Recoveries) -> None:
        resources = config.resources
        optimiser_steps = (total_steps - config.pretrain_steps) * config.plan.optimiser_steps
        self._ranks_of_a_copy = config.learner.sharding.ranks or resources.learner_ranks
        group = ActorGroup.spawn(
            "learner",
            LearnerActor,
            resources.learner_ranks,
            Share(resources.cpus_per_learner, resources.gpus_per_learner, resources.threads),
            place=resources.placement.learner,
            arguments=lambda rank: (rank, resources.learner_ranks, config, optimiser_steps),
            limits=Limits.of(resources),
        )
        self.group = DurableGroup(group, run_folder(config.run), recoveries, config.checkpoint.on_error)

    def start(self, checkpoint: str | None) -> None:
        """Builds the sharded model, from a checkpoint if given."""
        self.group.start(checkpoint)

    @timed("update")
    def update(self, training: pa.Table, images: Sequence[Any], kl_coefficient: float) -> UpdateReport:
        """One training step on the whole batch. The report is already summed over ranks."""
        return self.group.begin_update("update", ray.put(training), kl_coefficient, *images).result()[0]

    def connect_engines(self, engines: Sequence[Any]) -> None:
        """Opens the NCCL way from rank 0 to the rollout actors."""
        self.group.meet("connect_engines", list(engines))

    def send_weights(self) -> None:
        """Broadcasts the weights to the connected engines."""
        self.group.call("send_weights")

    def local_shards(self) -> list[Any]:
        """A reference to each rank's rows of the parameters, in order of rank; those of one copy if there are more.

        All are there.
        """
        return self.group.hand_over("local_shards", self._ranks_of_a_copy)

    @timed("checkpoint")
    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        """Starts to write a checkpoint from all ranks. Returns why the one before could not be written."""
        return self.group.call("begin_save", folder, extra)[0]

    @timed("checkpoint")
    def finish_save(self) -> str | None:
        """Waits for the checkpoint that is being written. Returns why it could not be."""
        return self.group.call("finish_save")[0]

    def export(self, folder: str) -> None:
        """Writes the model as a Hugging Face checkpoint."""
        self.group.call("export", folder)
