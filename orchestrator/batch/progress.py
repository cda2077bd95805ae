"""Where a run stands: step, place in the data, adaptive average, KL coefficient, best validation so far.

One frozen `Position` is replaced at every step and saved in every checkpoint, so that a resumed run goes on with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from algorithms.adaptive import AdaptiveState
from algorithms.kl import AdaptiveKL, FixedKL, KLController
from orchestrator.batch.assemble import StepMethod
from pointing.sampler import Cursor, Sampler
from schemas.config import BatchPlan, Kl, TrainConfig
from schemas.task import Task


@dataclass(frozen=True, slots=True)
class Position:
    """Everything of a run's state that is not in the learner.

    >>> Position().to_json()["step"]
    0
    """

    step: int = 0
    cursor: Cursor = field(default_factory=lambda: Cursor(0, 0))
    adaptive: AdaptiveState = field(default_factory=AdaptiveState)
    kl_coefficient: float | None = None
    best_step: int | None = None
    best_reward: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads."""
        return {
            "step": self.step,
            "cursor": self.cursor.to_json(),
            "adaptive_g": self.adaptive.g,
            "kl_coefficient": self.kl_coefficient,
            "best_step": self.best_step,
            "best_reward": self.best_reward,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Position:
        """The position of a checkpoint's extra state; raises KeyError when it is not one."""
        return cls(
            step=saved["step"],
            cursor=Cursor(**saved["cursor"]),
            adaptive=AdaptiveState(saved["adaptive_g"]),
            kl_coefficient=saved["kl_coefficient"],
            best_step=saved["best_step"],
            best_reward=saved["best_reward"],
        )


class Progress:
    """Deals out steps and tasks, and holds the position between them."""

    def __init__(self, config: TrainConfig, tasks: Sequence[Task], position: Position) -> None:
        self._config = config
        self._tasks = tasks
        self._sampler = Sampler(len(tasks), config.run.seed, config.data.shuffle)
        self.position = position
        self._drawn = position.cursor  # up to where the current step has dealt out tasks

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return total_steps(self._config, len(self._tasks))

    def steps(self) -> Iterator[int]:
        """The numbers of the steps still to do; `advance` moves on."""
        while self.position.step < self.total_steps:
            yield self.position.step

    def next_tasks(self) -> tuple[Task, ...]:
        """The tasks of the current step. The same until `advance` is called."""
        self._drawn = self.position.cursor
        return self.more_tasks(self._config.rollout.tasks_per_step)

    def more_tasks(self, count: int) -> tuple[Task, ...]:
        """Further tasks of the current step. They count as dealt out once `advance` is called, and not before: a step
        that is repeated after a failure begins with the same tasks."""
        indices, self._drawn = self._sampler.take(self._drawn, count)
        return tuple(self._tasks[i] for i in indices)

    def images(self, tasks: Set[str]) -> dict[str, str]:
        """Where the first image of each of these tasks lies, by task_id; a task without one is not in it."""
        return {task.task_id: task.images[0] for task in self._tasks if task.task_id in tasks and task.images}

    @property
    def plan(self) -> BatchPlan:
        """The policy's plan for the current step: one of no optimiser steps while only the critic learns."""
        plan = self._config.plan
        return replace(plan, epochs=0) if self.position.step < self._config.pretrain_steps else plan

    @property
    def method(self) -> StepMethod:
        """How the current step is learnt from."""
        config, position = self._config, self.position
        return StepMethod(config.algorithm, self.plan, position.adaptive, self.kl.coef, config.critic_plan)

    @property
    def kl(self) -> KLController:
        """The KL controller with its current coefficient."""
        return kl_controller(self._config.algorithm.kl, self.position.kl_coefficient)

    def advance(self, adaptive: AdaptiveState, measured_kl: float | None) -> None:
        """Moves to the next step, past the tasks dealt out in this one.

        `measured_kl` is the step's mean KL per trained token. None, which leaves the coefficient as it is, where none
        was measured: without a reference, while the critic learns alone, or when no step had a finite one.
        """
        coefficient = self.position.kl_coefficient
        if measured_kl is not None:
            coefficient = self.kl.update(measured_kl, self._config.plan.trajectories).coef
        self.position = replace(
            self.position,
            step=self.position.step + 1,
            cursor=self._drawn,
            adaptive=adaptive,
            kl_coefficient=coefficient,
        )

    def note_validation(self, reward: float) -> bool:
        """Keeps the best validation reward; True when this one is it."""
        best = self.position.best_reward is None or reward > self.position.best_reward
        if best:
            self.position = replace(self.position, best_step=self.position.step, best_reward=reward)
        return best


def total_steps(config: TrainConfig, n_tasks: int) -> int:
    """Steps of a run: trainer.max_steps, or as many as trainer.epochs passes over the tasks need."""
    if config.trainer.max_steps is not None:
        return config.trainer.max_steps
    assert config.trainer.epochs is not None
    return -(-config.trainer.epochs * n_tasks // config.rollout.tasks_per_step)


def kl_controller(kl: Kl, coefficient: float | None) -> KLController:
    """The configured controller, at `coefficient` if a run is under way."""
    start = kl.coefficient if coefficient is None else coefficient
    if kl.target is None or kl.horizon is None:
        return FixedKL(start)
    return AdaptiveKL(start, kl.target, kl.horizon)
