"""The small model of this project."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from schemas.config.run import Run
from schemas.task import Record


class TinyConfig(Record):
    """The small model of this project, and the grounding of its vision on synthetic scenes."""

    run: Run = Run()
    architecture: Literal["qwen2_5_vl", "qwen2_vl", "qwen3_vl"] = "qwen2_5_vl"
    samples: PositiveInt  # images seen
    batch_rows: PositiveInt = 64
    lr: PositiveFloat = 2e-3
    threads: PositiveInt = 1
