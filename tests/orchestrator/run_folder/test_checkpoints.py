"""The driver's side of checkpoints: choosing, keeping, failing, and a writer killed at random moments."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.roles.cluster import Cluster
from orchestrator.roles.critic import CriticRole, NoCritic
from orchestrator.run_folder.checkpoints import Checkpoints, continue_from
from orchestrator.run_folder.folder import RunFolder, critic_of
from orchestrator.run_folder.mirror import NoMirror
from policy.state.checkpoint import CheckpointError, read_extra, save
from schemas.config import Checkpoint, Run

ROOT = Path(__file__).parents[3]


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


class Critic(Learner):
    """As the critic's role: it writes beside the policy's folder."""

    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        return super().begin_save(str(critic_of(folder)), extra)

    def pair(self) -> dict[str, str]:
        return CriticRole.pair(self)  # type: ignore[arg-type]


class Both(Cluster):
    """Nothing but what saves."""

    def __init__(self, learner: Any, critic: Any) -> None:
        self.learner, self.critic = learner, critic


class Bench:
    """A run folder with its checkpoints, and what was said."""

    def __init__(self, root: Path, critic: Critic | NoCritic | None = None, **options: Any) -> None:
        self.folder = RunFolder(root)
        self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
        self.learner = Learner()
        self.said: list[str] = []
        self.told: list[int] = []
        self.checkpoints = Checkpoints(
            Both(self.learner, critic or NoCritic()),
            self.folder,
            Checkpoint(**options),
            settings="s",
            say=self.said.append,
            last=None,
            mirror=NoMirror(),
            saved=self.told.append,
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


def test_it_is_told_once_as_soon_as_one_is_complete(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.checkpoints.save(1, {})
    bench.checkpoints.look()
    assert bench.told == []
    bench.learner.finish_save()  # behind the training
    bench.checkpoints.look()
    bench.checkpoints.look()
    assert bench.told == [1]
    bench.checkpoints.save(2, {})
    bench.learner.pending = None  # it went with a rank
    bench.checkpoints.save(3, {})
    bench.checkpoints.finish()
    assert bench.told == [1, 3]


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


def test_one_that_was_lost_with_a_rank_is_written_again_if_it_is_the_last(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.checkpoints.save(1, {"step": 1})
    bench.learner.pending = None
    bench.checkpoints.save(2, {"step": 2})
    assert bench.said == ["no checkpoint of step 1: a rank was replaced while it wrote"]
    bench.learner.pending = None
    bench.checkpoints.finish_last()
    assert bench.folder.steps() == [2]
    assert read_extra(bench.folder.checkpoint(2)) == {"step": 2, "settings": "s"}


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


@pytest.mark.parametrize("failing", ["policy", "critic"])
@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_checkpoint_of_two_parts_is_one_with_both(tmp_path: Path, failing: str, on_error: str) -> None:
    critic = Critic()
    bench = Bench(tmp_path, critic, keep=1, on_error=on_error)
    for step in (1, 2):
        bench.checkpoints.save(step, {"step": step})
    assert bench.folder.steps() == [1]
    bench.checkpoints.finish()
    parts = [bench.folder.checkpoint(2), critic_of(bench.folder.checkpoint(2))]
    assert sorted(bench.folder.checkpoints.iterdir()) == parts
    first, second = (read_extra(part) for part in parts)
    assert first == second, "of one moment"
    {"policy": bench.learner, "critic": critic}[failing].failure = "disk is full"
    bench.checkpoints.save(3, {})
    if on_error == "stop":
        with pytest.raises(CheckpointError, match=r"disk is full\. checkpoint\.on_error=continue goes on without"):
            bench.checkpoints.finish_last()
        assert bench.folder.steps() == [2]
        return
    bench.checkpoints.save(4, {})
    assert bench.said == ["NO CHECKPOINT of step 3: disk is full. The run goes on (checkpoint.on_error=continue)"]
    assert bench.folder.steps() == [2]
    bench.learner.failure = critic.failure = None
    bench.checkpoints.finish_last()
    assert {path.name for path in bench.folder.checkpoints.iterdir()} == {"step-000004", "step-000004.critic"}


def test_a_part_of_another_moment_does_not_make_it_whole(tmp_path: Path) -> None:
    """The critic's part of an attempt that was killed, the policy's of the next."""
    bench = Bench(tmp_path, Critic(), keep=9)
    for step in (1, 2):
        bench.checkpoints.save(step, {"step": step})
    bench.checkpoints.finish()
    path = bench.folder.checkpoint(2)
    save(path, bench.learner.network, bench.learner.optimiser, {}, read_extra(path) | CriticRole.pair(None))  # type: ignore[arg-type]
    assert bench.chosen() == 1
    assert bench.said == [f"INCOMPLETE   {path}: the critic's part was not written to its end; passed over"]
    shutil.rmtree(critic_of(path))
    assert bench.folder.steps() == [1]


def test_both_parts_are_set_aside(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Critic(), keep=9)
    for step in (1, 2, 3):
        bench.checkpoints.save(step, {})
    bench.checkpoints.finish()
    file = critic_of(bench.folder.checkpoint(3)) / "state" / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-7])
    assert bench.chosen() == 2
    assert "step-000003.critic: damaged" in bench.said[0]
    assert bench.chosen(resume_step=1) == 1
    assert sorted(path.name for path in bench.folder.checkpoints.iterdir()) == [
        "step-000001",
        "step-000001.critic",
        "step-000002.aside",
        "step-000002.aside.critic",
        "step-000003.damaged",
        "step-000003.damaged.critic",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_writer_killed_two_hundred_times_always_leaves_a_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.orchestrator.recovery.killed", str(tmp_path / "run"), "200"],
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
