"""Where a run is and what makes it repeatable."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from schemas.task import Record

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio", "swanlab"]


class Run(Record):
    """Where a run's folder is and what makes it repeatable."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    folder: str = "runs"
    seed: NonNegativeInt = 1
    deterministic: bool = False  # the same numbers, bit for bit, every time on the same machine; slower, float32 alone
    resume: bool = True  # continue from the last checkpoint when the run folder holds one
    timeline: bool = (
        False  # write Ray's trace of all tasks and calls to timeline.json, for chrome://tracing or Perfetto
    )
    resume_step: NonNegativeInt | None = None  # continue from this checkpoint instead; later ones are set aside
    grace_s: PositiveFloat = 25.0  # from SIGTERM or Ctrl-C to the end of the run, its checkpoint written
    trackers: tuple[Tracker, ...] = ("tensorboard",)  # where numbers and pictures are shown, beside metrics.jsonl
