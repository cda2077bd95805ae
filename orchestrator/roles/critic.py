"""The driver's side of the critic: values of each shard, and an update beside the policy's.

values(shard)  -> VALUES rows to wait for, while other shards are still being sampled
update(lesson) -> starts learning; its numbers are waited for when the policy has learned too
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from actors.critic import CriticActor
from actors.group import ActorGroup, Limits, stored
from orchestrator.recovery.durable_group import Answers, DurableGroup
from orchestrator.recovery.recoveries import Recoveries
from orchestrator.roles.dispatch import ShardRef
from orchestrator.run_folder.folder import PAIR, critic_of, run_folder
from orchestrator.telemetry.stage_seconds import timed
from policy.learning.critic import CriticReport
from schemas.config import TrainConfig


class Lesson(Protocol):
    """An update of the critic that was started."""

    def numbers(self) -> dict[str, float | None]:
        """Waits for it; its metrics."""
        ...


class CriticRole:
    """All critic ranks; each call runs on every rank, and survives the loss of any of them."""

    def __init__(self, config: TrainConfig, total_steps: int, recoveries: Recoveries) -> None:
        resources, plan = config.resources, config.critic_plan
        assert plan is not None
        group = ActorGroup.spawn(
            "critic",
            CriticActor,
            resources.critic,
            resources.threads,
            arguments=lambda rank: (rank, plan.ranks, config, total_steps * plan.optimiser_steps),
            limits=Limits.of(resources),
        )
        self.group = DurableGroup(
            group,
            run_folder(config.run),
            recoveries,
            config.checkpoint,
            part_of=lambda path: str(critic_of(path)),
        )

    def start(self, checkpoint: str | None) -> None:
        """Builds the sharded model, from a checkpoint of the run if given."""
        self.group.start(checkpoint)

    def values(self, shard: ShardRef) -> Answers[pa.Table]:
        """Starts valuing a shard; what comes back is waited for, VALUES rows from each rank."""
        return self.group.ask(CriticActor.values, shard.rollout, shard.images)

    def update(self, lesson: pa.Table, images: Sequence[Any]) -> Lesson:
        """Starts learning a CRITIC table. Values that are asked for afterwards are those of the updated critic."""
        return StartedLesson(self.group.begin_update(CriticActor.update, stored(lesson), *images))

    def saved(self, step: int) -> None:
        """The checkpoint of `step` is complete."""
        self.group.saved(step)

    @timed("checkpoint")
    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        """Starts to write the critic's part of a checkpoint. Returns why the one before could not be written."""
        return self.group.call(CriticActor.begin_save, str(critic_of(folder)), extra)[0]

    @timed("checkpoint")
    def finish_save(self) -> str | None:
        """Waits for the part that is being written. Returns why it could not be."""
        return self.group.call(CriticActor.finish_save)[0]

    def pair(self) -> dict[str, str]:
        """A new identifier for both parts of one checkpoint: parts of two moments are never taken for one.

        See orchestrator.run_folder.folder.is_whole.
        """
        return {PAIR: uuid.uuid4().hex}


class StartedLesson:
    """An update under way on every rank."""

    def __init__(self, answers: Answers[CriticReport]) -> None:
        self._answers = answers

    @timed("critic")
    def numbers(self) -> dict[str, float | None]:
        """The report, which is over all ranks already, as metrics. "critic" is the time beyond the policy's update."""
        report = self._answers.result()[0]
        return {f"critic/{name}": value for name, value in report.numbers().items()}


class NoLesson:
    """Stands where there is no critic to learn."""

    def numbers(self) -> dict[str, float | None]:
        """Nothing to wait for."""
        return {}


class NoCritic:
    """Stands where no critic is needed."""

    def start(self, checkpoint: str | None) -> None:
        """Nothing to build."""

    def values(self, shard: ShardRef) -> None:
        """Nothing to compute."""

    def update(self, lesson: pa.Table, images: Sequence[Any]) -> Lesson:
        """Nothing to learn."""
        return NoLesson()

    def saved(self, step: int) -> None:
        """Nothing is kept."""

    def begin_save(self, folder: str, extra: dict[str, Any]) -> None:
        """Nothing to write."""

    def finish_save(self) -> None:
        """Nothing to wait for."""

    def pair(self) -> dict[str, str]:
        """There is one part."""
        return {}
