"""Connects to Ray and starts the roles; the loop then talks to them only.

rollout engines --shards--> reward service
      ^                |--> reference replicas
      |                \\--> critic ranks
      '--weights-- learner ranks
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from actors.player import Order
from orchestrator.recovery.durable_group import Answers
from orchestrator.recovery.recoveries import Recoveries
from orchestrator.recovery.stop import interruptible
from orchestrator.roles.critic import CriticRole, NoCritic
from orchestrator.roles.dispatch import ShardRef
from orchestrator.roles.learner import LearnerRole
from orchestrator.roles.local_ray import start_local
from orchestrator.roles.reference import NoReference, PendingLogprobs, ReferenceRole
from orchestrator.roles.reward import PendingReward, RewardRole
from orchestrator.roles.rollout import RolloutRole
from orchestrator.run_folder.folder import run_folder
from orchestrator.telemetry.stage_seconds import timed
from schemas.config import SftResources, TrainConfig
from services.http.proxy import PROXY_ENV


@dataclass(frozen=True, slots=True)
class Pending:
    """A finished shard with what is being computed of it."""

    shard: ShardRef
    scores: PendingReward
    reference: PendingLogprobs | None
    values: Answers[pa.Table] | None = None  # a part from every rank of the critic


@dataclass(frozen=True, slots=True)
class Collected:
    """The tables of a step, without images: those stay references."""

    rollouts: list[pa.Table]
    scores: list[pa.Table]
    reference: list[pa.Table] | None
    images: list[Any]
    values: list[pa.Table] | None = None


def logical_cpus(resources: SftResources) -> int:
    """Of a local cluster: as many as the roles reserve, so that they take turns on the cores that there are."""
    return max(os.cpu_count() or 1, int(resources.total_cpus) + 2)


def connect(resources: SftResources) -> None:
    """Joins the cluster that RAY_ADDRESS or a submitted job names; starts a local one otherwise.

    A local cluster gets `logical_cpus`.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        # What actors print is on the dashboard. A variable that the job was submitted with may not be given again.
        own = {name: value for name, value in PROXY_ENV.items() if name not in os.environ}
        ray.init(logging_level=logging.ERROR, log_to_driver=False, runtime_env={"env_vars": own})
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name, value in PROXY_ENV.items():  # for reward.port: what Serve's proxy answers, as problem details
        os.environ.setdefault(name, value)
    start_local(
        address="local",  # not one that someone else has started on this machine
        num_cpus=logical_cpus(resources),
        object_store_memory=resources.object_store_bytes,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": PROXY_ENV | {"OMP_NUM_THREADS": str(resources.threads), "OMP_WAIT_POLICY": "PASSIVE"}},
    )


def recoveries_of(config: TrainConfig) -> Recoveries:
    """The run's count of what was lost, empty."""
    return Recoveries(run_folder(config.run).root, config.resources.max_restarts)


class Players:
    """Engines and the reward: enough to evaluate a model. Starts nothing else."""

    def __init__(self, config: TrainConfig, recoveries: Recoveries) -> None:
        self._timeout_s = config.resources.call_timeout_s
        self.recoveries = recoveries
        self.rollout = RolloutRole.spawn(config, recoveries)
        self.reward = RewardRole(config, recoveries)

    @timed("wait")
    @interruptible
    def collect(self, pending: Sequence[Pending]) -> Collected:
        """Waits for what is still being computed and fetches the tables, in the order of trajectory ids.

        "wait" is thus what reward, reference and critic cost beyond the rollouts they overlap.
        """
        rollouts: list[pa.Table] = ray.get([p.shard.rollout for p in pending], timeout=self._timeout_s)
        scores = [p.scores.result(timeout_s=self._timeout_s) for p in pending]
        reference = [p.reference.result(timeout_s=self._timeout_s) for p in pending if p.reference is not None] or None
        values = [part for p in pending if p.values is not None for part in p.values.result()] or None
        order = sorted(range(len(pending)), key=lambda i: str(rollouts[i].column("trajectory_id")[0].as_py()))
        return Collected(
            rollouts=[rollouts[i] for i in order],
            scores=scores,
            reference=reference,
            values=values,
            images=[pending[i].shard.images for i in order],
        )

    def shutdown(self) -> None:
        """Stops the roles and leaves Ray. A local cluster ends with it; on a shared one other applications stay."""
        if os.environ.get("RAY_ADDRESS"):
            self.reward.stop()
        ray.shutdown()


class Cluster(Players):
    """Every role of a training run, started side by side."""

    def __init__(self, config: TrainConfig, total_steps: int) -> None:
        recoveries = recoveries_of(config)
        self._nccl = config.resources.weight_transfer == "nccl"
        self._connected: tuple[Any, ...] = ()  # the actors that weights go between over NCCL
        self.learner = LearnerRole(config, total_steps, recoveries)
        self.reference = ReferenceRole.spawn(config, recoveries) if config.starts_reference else NoReference()
        self.critic = CriticRole(config, total_steps, recoveries) if config.critic else NoCritic()
        super().__init__(config, recoveries)

    @interruptible
    def start(self, checkpoint: str | None) -> None:
        """Waits for the roles that hold a model, loaded from a checkpoint if given."""
        self.learner.start(checkpoint)
        self.critic.start(checkpoint)
        self.reference.ready()

    def play(self, order: Order, version: int) -> Collected:
        """Rolls an order out. Shards go to reward, reference and critic as they finish, while others are sampled."""
        return self.collect(
            [
                Pending(shard, self.reward.score(shard), self.reference.logprobs(shard), self.critic.values(shard))
                for shard in self.rollout.generate(order, version=version)
            ]
        )

    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        """Starts to write a checkpoint, in two parts where there is a critic; it is complete with both.

        Returns why the one before could not be written.
        """
        extra = extra | self.critic.pair()
        failures = self.learner.begin_save(folder, extra), self.critic.begin_save(folder, extra)
        return failures[0] or failures[1]

    def finish_save(self) -> str | None:
        """Waits for the checkpoint that is being written. Returns why it could not be."""
        failures = self.learner.finish_save(), self.critic.finish_save()
        return failures[0] or failures[1]

    def saved(self, step: int) -> None:
        """The checkpoint of `step` is complete, both parts."""
        self.learner.saved(step)
        self.critic.saved(step)

    @timed("publish")
    def publish_weights(self, version: int) -> None:
        """The learner's weights, in every engine, as `version`."""
        if self._nccl:
            ends = (*self.learner.group.actors, *self.rollout.group.actors)
            if ends != self._connected:
                self.learner.connect_engines(self.rollout.group.actors)
                self._connected = ends
            self.learner.send_weights()
            self.rollout.took_weights(version)
        else:
            self.rollout.load_weights(version, self.learner.local_shards)
