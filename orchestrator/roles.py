"""The driver's side of each role: what to call, what comes back, bounded in time.

    RolloutRole.generate -> Shard refs, as each finishes
    RewardRole.score, ReferenceRole.logprobs -> something to wait for, per shard
    LearnerRole.update / local_shards / save / export

The driver moves references. It reads every column but images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray
from ray import serve
from ray.exceptions import RayError

from actors.group import ActorGroup, GroupError, Share
from actors.learner import LearnerActor
from actors.player import Order
from actors.reference import ReferenceActor
from actors.rollout import RolloutActor
from orchestrator.clock import timed
from orchestrator.stop import interruptible
from policy.learner import UpdateReport
from schemas.config import TrainConfig
from services.handle import HandleClient, PendingScores
from services.reward import APP_NAME, deploy


@dataclass(frozen=True, slots=True)
class ShardRef:
    """References to a finished shard: its rollout table and its images."""

    rollout: Any
    images: Any


class RolloutRole:
    """All rollout engines."""

    def __init__(self, config: TrainConfig) -> None:
        resources = config.resources
        self._shards = config.rollout.shards_per_engine
        self._timeout_s = resources.call_timeout_s
        self._seed = config.run.seed if config.run.deterministic else None
        self.group = ActorGroup.spawn(
            "rollout",
            RolloutActor,
            resources.rollout_engines,
            Share(resources.cpus_per_engine, resources.gpus_per_engine, resources.threads),
            place=resources.placement.rollout,
            arguments=lambda rank: (
                config.model,
                config.data,
                config.rollout,
                config.run.seed + rank,
                resources.weight_transfer,
                config.run.deterministic,
            ),
            start_timeout_s=resources.start_timeout_s,
            call_timeout_s=resources.call_timeout_s,
        )

    @timed("rollout")
    @interruptible
    def generate(self, order: Order, version: int) -> Iterator[ShardRef]:
        """Deals the order's tasks to the engines and yields shards as they finish, in any order.

        Raises GroupError when an engine fails or nothing finishes in time.
        """
        engines = self.group.actors
        order = order if self._seed is None else replace(order, seed=self._seed)
        parts = [part for part in _deal(order, len(engines), self._shards) if part.tasks]
        method = "generate"
        streams: list[Any] = [
            getattr(engine, method).options(num_returns="streaming").remote(part, version)
            for engine, part in zip(engines, parts, strict=False)
        ]
        owner = {id(stream): rank for rank, stream in enumerate(streams)}
        deadline = time.monotonic() + self._timeout_s
        while streams:
            ready, _ = ray.wait(streams, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                late = [owner[id(stream)] for stream in streams]
                raise GroupError(f"rollout: generate gave nothing for {self._timeout_s:.0f} s from engine(s) {late}")
            stream: Any = ready[0]
            try:
                rollout = next(stream)
                images = next(stream)
            except StopIteration:
                streams.remove(stream)
                continue
            _raise_if_failed(rollout, owner[id(stream)])
            deadline = time.monotonic() + self._timeout_s
            yield ShardRef(rollout, images)

    def load_weights(self, version: int, shards: Sequence[Any]) -> None:
        """Every engine joins the ranks' local shards and takes them as `version`."""
        self.group.call("load_weights", version, *shards)

    def took_weights(self, version: int) -> None:
        """Every engine was sent `version` over NCCL."""
        self.group.call("took_weights", version)


def _raise_if_failed(ref: Any, rank: int) -> None:
    """A stream hands out its error as its last reference; it is raised here, with the engine's name."""
    ready, _ = ray.wait([ref], timeout=0, fetch_local=False)
    if ready:
        try:
            ray.get(ref)
        except RayError as error:
            raise GroupError(f"rollout engine {rank}: generate failed: {error}") from error


def _deal(order: Order, engines: int, shards: int) -> list[Order]:
    """One order per engine, task counts differing by at most one."""
    bounds = [round(i * len(order.tasks) / engines) for i in range(engines + 1)]
    return [
        Order(
            name=f"{order.name}.{rank}",
            tasks=order.tasks[bounds[rank] : bounds[rank + 1]],
            samples=order.samples,
            sampling=order.sampling,
            kind=order.kind,
            shards=shards,
            seed=order.seed,
        )
        for rank in range(engines)
    ]


class RewardRole:
    """The reward service, through its deployment handle: one call per shard."""

    def __init__(self, config: TrainConfig) -> None:
        # Named after the run: runs that share a cluster each have their own.
        self._app = f"{APP_NAME}-{config.run.name}"
        self._client = HandleClient(deploy(config.reward, self._app), timeout_s=config.reward.request_timeout_s)

    def score(self, shard: ShardRef) -> PendingScores:
        """Starts scoring a shard; the table travels by reference. A call lost with its replica is sent again."""
        return self._client.start(shard.rollout)

    def stop(self) -> None:
        """Takes the application down; others on the same cluster stay."""
        serve.delete(self._app)


class ReferenceRole:
    """Replicas of the reference model; shards go to them in turn."""

    def __init__(self, config: TrainConfig) -> None:
        resources = config.resources
        self._next = 0
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
            start_timeout_s=resources.start_timeout_s,
            call_timeout_s=resources.call_timeout_s,
        )

    def logprobs(self, shard: ShardRef) -> Any:
        """Starts scoring a shard's tokens; returns a reference to REFERENCE rows."""
        actor = self.group.actors[self._next % len(self.group)]
        self._next += 1
        return actor.logprobs.remote(shard.rollout, shard.images)

    def ready(self) -> None:
        """Returns when every replica has its model."""
        self.group.call("ready")


class NoReference:
    """Stands where no reference model is needed."""

    def logprobs(self, shard: ShardRef) -> None:
        """Nothing to compute."""

    def ready(self) -> None:
        """Nothing to wait for."""


class LearnerRole:
    """All learner ranks; each call runs on every rank."""

    def __init__(self, config: TrainConfig, total_steps: int) -> None:
        resources = config.resources
        optimiser_steps = (total_steps - config.pretrain_steps) * config.plan.optimiser_steps
        self._start_timeout_s = resources.start_timeout_s
        self._ranks_of_a_copy = config.learner.sharding.ranks or resources.learner_ranks
        self.group = ActorGroup.spawn(
            "learner",
            LearnerActor,
            resources.learner_ranks,
            Share(resources.cpus_per_learner, resources.gpus_per_learner, resources.threads),
            place=resources.placement.learner,
            arguments=lambda rank: (rank, resources.learner_ranks, config, optimiser_steps),
            start_timeout_s=resources.start_timeout_s,
            call_timeout_s=resources.call_timeout_s,
        )

    def start(self, checkpoint: str | None) -> dict[str, Any]:
        """Builds the sharded model, from a checkpoint if given; returns the checkpoint's extra state."""
        return self.group.meet("start", checkpoint, timeout_s=self._start_timeout_s)[0]

    @timed("update")
    def update(self, training: pa.Table, images: Sequence[Any], kl_coefficient: float) -> UpdateReport:
        """One training step on the whole batch. The report is already summed over ranks."""
        table = ray.put(training)
        return self.group.call("update", table, kl_coefficient, *images)[0]

    def connect_engines(self, engines: Sequence[Any]) -> None:
        """Opens the NCCL way from rank 0 to the rollout actors."""
        self.group.meet("connect_engines", list(engines), timeout_s=self._start_timeout_s)

    def send_weights(self) -> None:
        """Broadcasts the weights to the connected engines."""
        self.group.call("send_weights")

    def local_shards(self) -> list[Any]:
        """A reference to each rank's rows of the parameters, in order of rank; those of one copy if there are more."""
        return [actor.local_shards.remote() for actor in self.group.actors[: self._ranks_of_a_copy]]

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
