"""What one step does, in numbers that follow from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.config.micro_batches import MicroBatches


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What one step does, in numbers; printed at start.

    >>> BatchPlan(32, 8, 2, 1, 1, MicroBatches(16)).rows_per_rank
    128
    """

    tasks: int
    samples: int
    ranks: int
    epochs: int
    mini_batches: int
    micro_batches: MicroBatches

    @property
    def trajectories(self) -> int:
        """Trajectories in one step: tasks x samples."""
        return self.tasks * self.samples

    @property
    def optimiser_steps(self) -> int:
        """Optimiser steps in one training step."""
        return self.epochs * self.mini_batches

    @property
    def rows_per_rank(self) -> int:
        """Most rows that one rank sees in one optimiser step."""
        return -(-self.trajectories // (self.mini_batches * self.ranks))

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks x {self.samples} samples = {self.trajectories} trajectories a step; "
            f"{self.optimiser_steps} optimiser step(s) of {-(-self.trajectories // self.mini_batches)} trajectories; "
            f"{self.ranks} rank(s), {self.rows_per_rank} trajectories each, in micro-batches of up to "
            f"{self.micro_batches}"
        )
