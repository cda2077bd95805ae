"""When state is written and how much is kept."""

from __future__ import annotations

import re

from pydantic import NonNegativeInt, PositiveInt, model_validator

from schemas.config.types import OnError
from schemas.task import Record

LONGEST = 200  # steps without a checkpoint that lost ranks would have to repeat, whose tables lie on the disk


class Checkpoint(Record):
    """When the learner's state is written and how much is kept. The best step (validation reward) is kept beside.

    It is copied to host memory and written from there while training goes on, one checkpoint at a time.
    """

    every: NonNegativeInt = 50  # steps; 0: at the end and, in stage 2, every 200 (what is repeated when ranks are lost)
    keep: PositiveInt = 2
    keep_best: bool = True
    on_error: OnError = "stop"  # when one, or a replay, cannot be written (full disk); the last one must be
    # A URL that fsspec knows (s3://bucket/runs, file:///mnt/runs): complete checkpoints are copied there, and brought
    # back from there when the run folder has none as new. None: they are in the run folder alone.
    mirror: str | None = None

    @property
    def steps(self) -> int:
        """Steps between two checkpoints of stage 2: bounded, so that what lost ranks must repeat is, time and disk.

        >>> Checkpoint(every=0).steps
        200
        """
        return self.every or LONGEST

    @model_validator(mode="after")
    def _url(self) -> Checkpoint:
        if self.mirror is not None and not re.match(r"[a-z][a-z0-9+.-]*://.", self.mirror):
            raise ValueError(f"mirror={self.mirror!r}: give an fsspec URL such as s3://bucket/runs or file:///mnt/runs")
        return self
