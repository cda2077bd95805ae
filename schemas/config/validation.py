"""Held-out evaluation."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt

from schemas.config.rollout import Sampling
from schemas.task import Record


class Validation(Record):
    """Held-out evaluation: `samples` draws per task at the sampling below, and one greedy pass."""

    every: NonNegativeInt = 0  # steps between validations; 0: only before and after
    before: bool = True
    after: bool = True
    samples: PositiveInt = 3
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95)
    greedy: bool = True
    limit: PositiveInt | None = None  # first tasks of the file only
