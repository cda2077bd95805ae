"""`ray job submit` on a cluster of five nodes: every role on a node of its own, the same numbers as on one machine, and
a run that goes on after it was stopped in any stage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from policy.state.checkpoint import verify
from tests.deploy.local_head import free_ports
from tests.orchestrator.local_cluster import ROOT, LocalCluster, local_cluster

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(2400)]

STEPS = 6
# CPUs of the nodes, by label. Those of the first three are taken whole, so the reward finds room on the last alone.
NODES = {"learner": 1, "reference": 1, "rollout": 1, "reward": 1}
PLACED = [f"resources.{role}.place.label={role}" for role in ("learner", "reference", "rollout")]
ACTORS = {
    "learner": "LearnerActor",
    "reference": "ReferenceActor",
    "rollout": "RolloutActor",
    "reward": "ServeReplica:reward-quickstart:RewardService",
}


def command(scenes: Path, runs: Path, *overrides: str) -> list[str]:
    """Training of the small model: two tasks of four samples a step, a checkpoint after every step."""
    return [
        *("python", "-m", "orchestrator", "train", "--config", "configs/quickstart.yaml"),
        *(f"data.{split}_files={scenes}/{split}.jsonl" for split in ("train", "validation", "test")),
        *(f"resources.{role}.count=1" for role in ("learner", "rollout", "reference")),
        *("resources.object_store_bytes=100000000", "validation.before=false"),
        *("rollout.tasks_per_step=2", "rollout.samples_per_task=4", "validation.limit=2", "validation.samples=1"),
        *("checkpoint.every=1", f"trainer.max_steps={STEPS}", "run.deterministic=true", "run.grace_s=90"),
        *(f"run.folder={runs}", *overrides),
    ]


def numbers(runs: Path) -> list[dict[str, Any]]:
    """The last record of every step and validation, without times."""
    lines = (runs / "quickstart" / "metrics.jsonl").read_text().splitlines()
    last = {(r["kind"], r["step"]): r for r in map(json.loads, lines)}
    return [
        {key: value for key, value in last[at].items() if not key.startswith(("time", "pace", "recovery"))}
        for at in sorted(last)
    ]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(NODES, {"RAY_JOB_STOP_WAIT_TIME_S": "120"}) as made:
        yield made


@pytest.fixture(scope="module")
def alone(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the same command gives on a local Ray of its own."""
    runs = tmp_path_factory.mktemp("alone")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    subprocess.run([sys.executable, *command(scenes, runs)[1:]], cwd=ROOT, env=environment, check=True, timeout=900)
    return numbers(runs)


def test_a_job_spreads_its_roles_and_gives_the_numbers_of_one_machine(
    cluster: LocalCluster, scenes: Path, tmp_path: Path, alone: list[dict[str, Any]]
) -> None:
    [port] = free_ports(1)
    more = ["run.timeline=true", f"reward.port={port}", *PLACED]
    job = cluster.submit(*command(scenes, tmp_path, *more), name="whole")
    text = job.stdout + job.stderr
    assert job.returncode == 0, text
    assert "Job 'whole' succeeded" in job.stdout
    assert f"step    {STEPS}/{STEPS}" in job.stdout  # the log came while the job ran
    assert numbers(tmp_path) == alone
    assert (tmp_path / "quickstart" / "export" / "model.safetensors").is_file()
    timeline = json.loads((tmp_path / "quickstart" / "timeline.json").read_text())
    assert {"update", "generate"} <= {event["name"].rpartition(".")[2] for event in timeline}
    actors = cluster.actors()
    where = {role: {a["node_id"] for a in actors if a["class_name"] == name} for role, name in ACTORS.items()}
    assert where == {role: {cluster.nodes[role]} for role in ACTORS}
    packages = {"files", "schemas", "pointing", "algorithms", "policy", "actors", "services", "orchestrator"}
    assert packages | {"configs", "models"} <= cluster.uploaded()
    assert not {".venv", ".git", "runs", "data", "tests", "docs"} & cluster.uploaded()
    # The run's application is gone and Serve is left: what its proxy says of that is ours.
    answer = httpx.get(f"http://127.0.0.1:{port}/v1/score", timeout=10)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert cluster.token not in text
    for file in (tmp_path / "quickstart").rglob("*"):
        assert not file.is_file() or cluster.token.encode() not in file.read_bytes(), file


def test_a_refused_job_fails_with_the_reason_in_its_log(cluster: LocalCluster, scenes: Path, tmp_path: Path) -> None:
    job = cluster.submit(*command(scenes, tmp_path, "run.folder=runs", "data.train_files=data/x.jsonl"), name="refused")
    assert job.returncode == 1
    assert cluster.status("refused") == "FAILED"
    log = cluster.log("refused")
    assert "refused: run.folder='runs': lies in the job's copy of the working directory" in log
    assert "data.train_files='data/x.jsonl': was not uploaded" in log
    assert "Traceback" not in log
    elsewhere = cluster.submit(
        *command(scenes, tmp_path, *PLACED, "resources.learner.place.label=trainer"), name="elsewhere"
    )
    assert elsewhere.returncode == 1
    assert "learner: room for 0 of 1 processes of 1 CPU on nodes labelled pointvg.role=trainer" in elsewhere.stdout
    wrong = cluster.submit(*command(scenes, tmp_path, "learner.epochs=0"), name="wrong")
    assert wrong.returncode == 1
    assert "learner.epochs" in cluster.log("wrong")


@contextmanager
def frozen(cluster: LocalCluster, role: str, when: Callable[[], bool]) -> Iterator[None]:
    """Halts one of a role's processes as soon as `when` holds: all that needs it then waits, until the block ends."""

    def running() -> list[int]:
        return [a["pid"] for a in cluster.actors() if a["class_name"] == ACTORS[role] and a["state"] == "ALIVE"]

    wait(lambda: bool(running()), 600, every=1.0)
    process = psutil.Process(running()[0])
    wait(when, 600)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def wait(until: Callable[[], bool], seconds: float, every: float = 0.002) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, until
        time.sleep(every)


def test_a_job_stopped_in_any_stage_goes_on_to_the_same_end(
    cluster: LocalCluster, scenes: Path, tmp_path: Path, alone: list[dict[str, Any]]
) -> None:
    """Each time the process at work is halted until the signal is there, so that it comes in that stage for certain."""

    def checkpoint(step: int) -> Path:
        return tmp_path / "quickstart" / "checkpoints" / f"step-{step:06d}"

    def written(step: int) -> Callable[[], bool]:
        return (checkpoint(step) / "complete.json").exists

    def partial(step: int) -> Callable[[], bool]:
        return checkpoint(step).with_name(f"step-{step:06d}.partial").exists

    def told(name: str) -> Callable[[], bool]:
        return lambda: "SIGTERM: saving" in cluster.log(name)

    # Stage, whose process is halted, when, the call that the driver then waits in, the steps that may be saved: what is
    # being written when the signal comes is written to its end, and a step that is being learnt is learnt.
    stages: list[tuple[str, str, Callable[[], bool], str | None, set[int]]] = [
        ("rollout", "rollout", written(1), "generate", {1}),
        ("update", "learner", written(2), "update", {3}),
        ("checkpoint", "learner", partial(4), None, {4, 5}),
    ]
    for name, role, when, call, saved in stages:
        assert cluster.submit(*command(scenes, tmp_path, *PLACED), name=name, wait=False).returncode == 0
        with frozen(cluster, role, when):
            if call is None:
                assert not written(4)()
            else:
                time.sleep(3.0)  # Ray hears once a second of calls that begin and end
                wait(lambda call=call: cluster.calls(call) > 0, 120, every=0.5)
            cluster.stop(name)
            wait(told(name), 85, every=0.2)
        wait(lambda name=name: cluster.status(name) == "STOPPED", 150, every=0.5)
        log = cluster.log(name)
        said = [s for s in range(STEPS + 1) if f"{checkpoint(s)} is written, and the same command continues" in log]
        assert saved >= set(said) != set(), log
        verify(checkpoint(said[0]))
        print(f"stopped in {name}: step {said[0]} saved")
    job = cluster.submit(*command(scenes, tmp_path, *PLACED), name="last")
    assert job.returncode == 0, job.stdout + job.stderr
    assert "continuing from step" in cluster.log("last")
    assert numbers(tmp_path) == alone
