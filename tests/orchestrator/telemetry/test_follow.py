"""What another process logs is shown once, also where its file is written anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from files.crash_safe import write_text
from orchestrator.telemetry.follow import followed


class Shown:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.said: list[str] = []
        self.closed = False

    def step(self, step: int, numbers: Mapping[str, Any]) -> None:
        assert numbers == {"learner/loss": 1.0}
        self.steps.append(step)

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        self.closed = True


def line(kind: str, step: int, **numbers: float) -> str:
    return json.dumps({"kind": kind, "step": step, "time": 0.0} | numbers) + "\n"


def steps(*numbers: int) -> str:
    return "".join(line("train", number, **{"learner/loss": 1.0}) for number in numbers)


def test_every_new_record_is_shown_once(tmp_path: Path) -> None:
    metrics, shown = tmp_path / "metrics.jsonl", Shown()
    metrics.write_text(steps(0, 1, 2))
    with followed(metrics, shown):
        write_text(metrics, steps(0, 1))  # continued from step 2: the third is made again
        with metrics.open("a") as file:
            file.write(steps(2, 3) + line("validation", 4, loss=2.5) + '{"kind": "tra')
    assert shown.steps == [3]
    assert shown.said == ["validation at step 4: loss 2.5000 on held-out transcripts"]
    assert shown.closed


def test_a_file_that_comes_later_is_followed(tmp_path: Path) -> None:
    shown = Shown()
    with followed(tmp_path / "metrics.jsonl", shown):
        (tmp_path / "metrics.jsonl").write_text(steps(0, 1))
    assert shown.steps == [0, 1]
