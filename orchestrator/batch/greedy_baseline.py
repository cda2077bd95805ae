"""Rewards from outside the samples that they are compared with: for ReMax, those of each task's greedy reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from actors.player import Order
from orchestrator.batch.lengths import shaped_rewards
from orchestrator.evaluation.evaluate import play
from orchestrator.roles.cluster import Players
from schemas.config import Algorithm, Sampling
from schemas.config.method import Overlong
from schemas.task import Task


class Baseline(Protocol):
    """Plays what a step's estimator needs beside its samples."""

    def play(self, step: int, tasks: tuple[Task, ...]) -> Mapping[str, float] | None:
        """Reward of the greedy reply to each task by task_id; None when nothing is needed."""
        ...


class NoBaseline:
    """Stands where the samples are enough."""

    def play(self, step: int, tasks: tuple[Task, ...]) -> None:
        """Nothing to play."""


class GreedyBaseline:
    """One greedy reply to each task: scored, never trained on, and not among the samples that are logged."""

    def __init__(self, players: Players, overlong: Overlong | None) -> None:
        self._players = players
        self._overlong = overlong

    def play(self, step: int, tasks: tuple[Task, ...]) -> Mapping[str, float]:
        """Plays the tasks with the policy of this step."""
        order = Order(f"{step:06d}-greedy", tasks, 1, Sampling(temperature=0.0), "greedy")
        table = play(self._players, order, version=step)
        rewards = shaped_rewards(table, self._overlong).tolist()
        return {str(name): reward for name, reward in zip(table.column("task_id").to_pylist(), rewards, strict=True)}


def baseline_of(algorithm: Algorithm, players: Players) -> Baseline:
    """The baseline that the configured advantage needs."""
    return GreedyBaseline(players, algorithm.overlong) if algorithm.advantage == "remax" else NoBaseline()
