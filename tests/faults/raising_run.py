"""`pointvg train` in which one actor of each role raises once, while it works."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orchestrator.roles
import orchestrator.rollouts
from orchestrator.cli import app


def once(role: str) -> None:
    """Raises in the first process that gets here."""
    marker = MARKERS / role
    try:
        marker.unlink()
    except FileNotFoundError:
        return
    raise RuntimeError(f"a {role} that raises")


class RolloutActor(orchestrator.rollouts.RolloutActor):
    def generate(self, order: Any, version: int) -> Iterator[Any]:
        for number, item in enumerate(super().generate(order, version)):
            if version == 1 and number == 2:  # after its first shard
                once("rollout")
            yield item


class ReferenceActor(orchestrator.roles.ReferenceActor):
    def logprobs(self, rollout: Any, images: Any) -> Any:
        if rollout.column("trajectory_id")[0].as_py().startswith("000002"):
            once("reference")
        return super().logprobs(rollout, images)


class LearnerActor(orchestrator.roles.LearnerActor):
    calls = 0

    def update(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == 4:
            once("learner")
        return super().update(*arguments)


if __name__ == "__main__":
    MARKERS = Path(sys.argv[-1]).with_suffix(".raise").absolute()
    MARKERS.mkdir()
    for role in ("rollout", "reference", "learner"):
        (MARKERS / role).touch()
    orchestrator.rollouts.RolloutActor = RolloutActor
    orchestrator.roles.ReferenceActor = ReferenceActor
    orchestrator.roles.LearnerActor = LearnerActor
    app()
