"""Every part of a training run is killed, stopped or made to raise, from outside, while it works.

One undisturbed run, and one for each kind of fault in which part after part is hit. Each must complete with the
undisturbed run's numbers, bit for bit. `make test-faults` prints how long each part took to come back.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from training import RAISING, Training, config, numbers, print_table

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 6
# What is hit, step after step: the actor, and what it is doing just then.
PARTS = {
    "rollout": ("RolloutActor", "generate"),
    "reference": ("ReferenceActor", "logprobs"),
    "reward": ("ServeReplica:reward", ""),
    "learner": ("LearnerActor", "update"),  # of step 4: the update of step 3 is repeated from the checkpoint before it
}
FAULTS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    with Training(config(tmp_path_factory.mktemp("calm"), scenes, trainer__max_steps=STEPS)) as run:
        run.finish()
        yield run


def test_the_undisturbed_run_loses_nothing(undisturbed: Training) -> None:
    assert undisturbed.recoveries() == []
    assert undisturbed.records("train")[-1]["recovery/count"] == 0
    assert not list((undisturbed.folder / "replay").rglob("*.arrow"))  # what a checkpoint holds is let go


@pytest.mark.parametrize("fault", FAULTS)
def test_parts_that_die_or_stop_come_back_and_change_no_number(
    undisturbed: Training, scenes: Path, tmp_path: Path, fault: str
) -> None:
    with Training(config(tmp_path, scenes, trainer__max_steps=STEPS)) as run:
        for step, (actor, method) in enumerate(PARTS.values()):
            run.after_step(step)
            os.kill(run.busy(actor, method), FAULTS[fault])
        run.finish()
        print_table(fault, run)
        assert {r["role"] for r in run.recoveries()} >= {"rollout", "learner", "reference"}
        assert_equal(run, undisturbed)


def test_parts_that_raise_come_back_and_change_no_number(undisturbed: Training, scenes: Path, tmp_path: Path) -> None:
    with Training(config(tmp_path, scenes, trainer__max_steps=STEPS), program=RAISING) as run:
        run.finish()
        print_table("exception", run)
        assert [(r["role"], r["fault"]) for r in run.recoveries()] == [
            (role, "raised") for role in ("rollout", "reference", "learner")
        ]
        assert_equal(run, undisturbed)


def test_the_controller_of_serve_and_the_driver(undisturbed: Training, scenes: Path, tmp_path: Path) -> None:
    with Training(config(tmp_path, scenes, trainer__max_steps=STEPS)) as run:
        run.after_step(0)
        os.kill(run.busy("ServeController", ""), signal.SIGKILL)
        run.after_step(4)  # past the checkpoint of step 3
        run.kill_driver()
        run.start()
        run.finish()
        assert_equal(run, undisturbed)


def assert_equal(run: Training, undisturbed: Training) -> None:
    """The same numbers in every step and at the end, and every trajectory exactly once."""
    last: dict[int, Any] = {r["step"]: numbers(r) for r in run.records("train")}
    assert sorted(last) == list(range(STEPS))
    assert list(last.values()) == [numbers(r) for r in undisturbed.records("train")]
    assert numbers(run.records("validation")[-1]) == numbers(undisturbed.records("validation")[-1])
    weights = "export/model.safetensors"
    assert (run.folder / weights).read_bytes() == (undisturbed.folder / weights).read_bytes()
    for step in range(STEPS):
        ids, expected = (trajectories(each.folder, step) for each in (run, undisturbed))
        assert len(set(ids)) == len(ids) == 32
        assert sorted(ids) == sorted(expected)


def trajectories(folder: Path, step: int) -> list[str]:
    """The ids that the learner was given in a step."""
    with pa.memory_map(str(folder / "kept" / f"step-{step:06d}.arrow")) as source:
        return pa.ipc.open_file(source).read_all().column("trajectory_id").to_pylist()


def test_a_crash_loop_ends_with_a_clear_error(scenes: Path, tmp_path: Path) -> None:
    with Training(config(tmp_path, scenes, resources__max_restarts=0)) as run:
        run.after_step(0)
        os.kill(run.busy("LearnerActor", "update"), signal.SIGKILL)
        assert run.driver.wait(timeout=120) != 0
        assert "resources.max_restarts allows 0" in run.tail()
    shutil.rmtree(tmp_path)
