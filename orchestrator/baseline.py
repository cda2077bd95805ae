"""Rewards from outside the samples that they are compared with: for ReMax, those of each task's greedy reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from actors.player import Order
from orchestrator.cluster import Players
from orchestrator.evaluate import play
from schemas.config import Algorithm, Sampling
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

    def __init__(self, players: Players) -> None:
        self._players = players

    def play(self, step: int, tasks: tuple[Task, ...]) -> Mapping[str, float]:
        """Plays the tasks with the policy of this step."""
        order = Order(f"{step:06d}-greedy", tasks, 1, Sampling(temperature=0.0), "greedy")
        table = play(self._players, order, version=step)
        return {row["task_id"]: row["reward"] for row in table.select(["task_id", "reward"]).to_pylist()}


def baseline_of(algorithm: Algorithm, players: Players) -> Baseline:
    """The baseline that the configured advantage needs."""
    return GreedyBaseline(players) if algorithm.advantage == "remax" else NoBaseline()
