"""`pointvg train` in which parts are hurt, each once, while they work.

What is to happen is said by files beside the configuration: hurt/PART holds SIGKILL, SIGSTOP or raise. The process that
finds itself to be that part renames the file and is hurt: a signal comes 50 ms later, in the middle of its work.
Whoever knows when something happened leaves a file NAME.SECONDS there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

import orchestrator.loop
import orchestrator.roles.cluster
import orchestrator.roles.critic
import orchestrator.roles.learner
import orchestrator.roles.reference
import orchestrator.roles.rollout
import services.reward.deployment
from orchestrator.cli.main import app

AT = {
    "rollout": 1,
    "rollout-too": 1,
    "node": 1,
    "raylet": 1,
    "reference": 2,
    "reward": 2,
    "learner": 3,
    "critic": 4,
    "driver": 5,
}  # steps


def mark(name: str) -> Path:
    """Where it is noted that something happens now."""
    return MARKS / f"{name}.{time.time():.3f}"


def hurt(part: str, step: int) -> bool:
    """Does what the part's file says, in the first process that gets here in the part's step; whether it did."""
    if step != AT[part] or not (file := MARKS / part).is_file():
        return False
    fault = file.read_text()
    try:
        file.rename(mark(part))
    except FileNotFoundError:
        return False
    if fault == "raise":
        raise RuntimeError(f"a {part} that raises")
    number = signal.Signals[fault]
    here = os.getpid()
    victims = [psutil.Process(here)]
    if part in ("node", "raylet"):
        raylet = psutil.Process(int(os.environ["RAY_RAYLET_PID"]))
        victims = [raylet]
    if part == "node":
        forkserver = psutil.Process(here).parent()  # a session of its own, with this process and others of the node
        victims = [raylet, *raylet.children(recursive=True)]
        victims += [] if forkserver in (None, raylet) else [forkserver, *forkserver.children(recursive=True)]
    threading.Timer(0.05, lambda: [victim.send_signal(number) for victim in victims]).start()
    return True


def hurt_node(step: int) -> None:
    """As `hurt`, of the node that is to be lost, or of its raylet alone, if this is it."""
    if os.environ.get("DOOMED_NODE"):
        hurt("node", step) or hurt("raylet", step)


def step_of(table: Any) -> int:
    """The step that a table's trajectories belong to."""
    return int(table.column("trajectory_id")[0].as_py()[:6])


class RolloutActor(orchestrator.roles.rollout.RolloutActor):
    def generate(self, order: Any, version: int) -> Iterator[Any]:
        mark(f"order-{order.name.replace('.', '-')}").touch()
        for number, item in enumerate(super().generate(order, version)):
            yield item
            if number == 1:  # between its first shard, of two items, and the next
                hurt("rollout", version) or hurt("rollout-too", version)
                hurt_node(version)


class ReferenceActor(orchestrator.roles.reference.ReferenceActor):
    def logprobs(self, rollout: Any, images: Any) -> Any:
        hurt("reference", step_of(rollout))
        return super().logprobs(rollout, images)


class LearnerActor(orchestrator.roles.learner.LearnerActor):
    def update(self, training: Any, *others: Any) -> Any:
        hurt_node(step_of(training))
        if self._rank == 1:
            hurt("learner", step_of(training))
        else:
            given = training.column("trajectory_id").to_pylist()
            (MARKS / f"given.{step_of(training)}").write_text(json.dumps(given))
        return super().update(training, *others)


class CriticActor(orchestrator.roles.critic.CriticActor):
    def update(self, lesson: Any, *others: Any) -> Any:
        if self._rank == 1:
            hurt("critic", step_of(lesson))
        return super().update(lesson, *others)


class RewardService(services.reward.deployment.RewardService):
    def score_table(self, rollouts: Any) -> Any:
        hurt("reward", step_of(rollouts))
        time.sleep(0.2)  # or it is done before it is hurt
        return super().score_table(rollouts)


class Recoveries(orchestrator.roles.cluster.Recoveries):
    def begin(self, error: Any, group: Any = None) -> Any:
        mark(f"noticed-{error.role}").write_text(error.fault)
        return super().begin(error, group)


def assemble(returned: Any, method: Any) -> Any:
    hurt("driver", step_of(returned.rollouts[0]))
    return plain_assemble(returned, method)


MARKS = Path(sys.argv[-1]).with_suffix(".hurt").absolute()
if __name__ == "__main__":
    plain_assemble = orchestrator.loop.assemble
    orchestrator.roles.rollout.RolloutActor = RolloutActor
    orchestrator.roles.reference.ReferenceActor = ReferenceActor
    orchestrator.roles.learner.LearnerActor = LearnerActor
    orchestrator.roles.critic.CriticActor = CriticActor
    services.reward.deployment.RewardService = RewardService
    orchestrator.loop.assemble = assemble
    orchestrator.roles.cluster.Recoveries = Recoveries
    app()
