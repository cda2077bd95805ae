"""The driver's side of checkpoints: choosing, keeping, failing, and a writer killed at random moments."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.checkpoints import Checkpoints, continue_from
from orchestrator.folder import RunFolder
from policy.checkpoint import CheckpointError, save
from schemas.config import Checkpoint, Run

ROOT = Path(__file__).parents[2]


class Learner:
    """Writes when it is told to finish, or says why it cannot."""

    def __init__(self) -> None:
        self.network: Any = torch.nn.Linear(2, 2)
        self.optimiser = torch.optim.SGD(self.network.parameters(), lr=1.0)
        self.pending: tuple[str, dict[str, Any]] | None = None
        self.failure: str | None = None

    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        failure = self.finish_save()
        self.pending = (folder, extra)
        return failure

    def finish_save(self) -> str | None:
        pending, self.pending = self.pending, None
        if pending is not None and self.failure is None:
            save(pending[0], self.network, self.optimiser, {}, pending[1])
        return self.failure if pending is not None else None


class Bench:
    """A run folder with its checkpoints, and what was said."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.folder = RunFolder(root)
        self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
        self.learner = Learner()
        self.said: list[str] = []
        self.checkpoints = Checkpoints(
            self.learner,
            self.folder,
            Checkpoint(**options),
            settings="s",
            say=self.said.append,
            last=None,
        )

    def chosen(self, **run: Any) -> int | None:
        return continue_from(self.folder, Run(**run), self.said.append)


def saved(root: Path, *steps: int) -> Bench:
    bench = Bench(root, keep=9)
    for step in steps:
        bench.checkpoints.save(step, {})
    bench.checkpoints.finish()
    return bench


def test_older_ones_go_when_the_newer_one_is_complete_and_not_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path, keep=1)
    bench.checkpoints.save(1, {}, best=1)
    assert bench.folder.steps() == []  # being written
    bench.checkpoints.save(2, {}, best=1)
    assert bench.folder.steps() == [1]
    bench.checkpoints.save(3, {}, best=1)
    bench.checkpoints.finish_last()
    assert bench.folder.steps() == [1, 3]
    bench.checkpoints.save(3, {}, best=1)
    assert bench.learner.pending is None, "it is there already"


@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_one_that_cannot_be_written_stops_the_run_or_is_said(tmp_path: Path, on_error: str) -> None:
    bench = Bench(tmp_path, keep=1, on_error=on_error)
    bench.checkpoints.save(1, {})
    bench.checkpoints.finish()
    bench.learner.failure = "disk is full"
    bench.checkpoints.save(2, {})
    if on_error == "stop":
        with pytest.raises(CheckpointError, match=r"disk is full\. checkpoint\.on_error=continue goes on without"):
            bench.checkpoints.save(3, {})
    else:
        bench.checkpoints.save(3, {})
        assert bench.said == ["NO CHECKPOINT of step 2: disk is full. The run goes on (checkpoint.on_error=continue)"]
        with pytest.raises(CheckpointError, match="the last checkpoint was not written"):
            bench.checkpoints.finish_last()
    assert bench.folder.steps() == [1], "what was there is kept"


def test_one_that_was_lost_with_a_rank_is_an_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.checkpoints.save(1, {})
    bench.learner.pending = None
    with pytest.raises(CheckpointError, match="was lost with a learner rank"):
        bench.checkpoints.finish()


def test_a_run_continues_from_the_newest(tmp_path: Path) -> None:
    assert Bench(tmp_path / "new").chosen() is None
    assert saved(tmp_path / "run", 1, 5).chosen() == 5


def test_a_damaged_one_is_named_kept_and_passed_over(tmp_path: Path) -> None:
    bench = saved(tmp_path, 1, 2)
    file = bench.folder.checkpoint(2) / "state" / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-7])
    assert bench.chosen() == 1
    assert "DAMAGED" in bench.said[0]
    assert "step-000002: damaged: state/__0_0.distcp has" in bench.said[0]
    assert "kept as step-000002.damaged" in bench.said[0]
    assert bench.folder.steps() == [1]


def test_a_run_never_starts_again_because_all_are_damaged(tmp_path: Path) -> None:
    bench = saved(tmp_path, 1)
    (bench.folder.checkpoint(1) / "rng-00000.pt").unlink()
    with pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged: \[1\]"):
        bench.chosen()


def test_a_step_that_was_asked_for_is_there_or_it_is_an_error(tmp_path: Path) -> None:
    bench = saved(tmp_path, 1, 2, 3)
    with pytest.raises(CheckpointError, match=r"run\.resume_step=4: no complete checkpoint of it in .*; there are \["):
        bench.chosen(resume_step=4)
    assert bench.chosen(resume_step=2) == 2
    assert bench.folder.steps() == [1, 2]
    assert (bench.folder.checkpoints / "step-000003.aside").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_writer_killed_two_hundred_times_always_leaves_a_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.orchestrator.killed", str(tmp_path / "run"), "200"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rounds = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rounds) == 200
    assert "DAMAGED" not in done.stdout
    newest = -1
    for each in rounds:
        begun = newest if each["begun"] is None else max(newest, each["begun"])
        if newest >= 0 or begun > 0:
            assert each["found"] is not None
            assert each["found"] >= max(newest, begun - 1), each  # never older than one interval
        newest = max(newest, -1 if each["found"] is None else each["found"])
    assert newest > 40
    assert sum(each["begun"] is not None for each in rounds) > 40, "many rounds got to write"
