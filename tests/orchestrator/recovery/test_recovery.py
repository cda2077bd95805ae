"""Parts that die, stop and raise: real processes of light actors on a real cluster, ended from outside."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from actors.group import ActorGroup, GroupError, Limits
from actors.player import Order, group_name
from files.crash_safe import sealed
from orchestrator.recovery.durable_group import DurableGroup
from orchestrator.recovery.recoveries import Recoveries, RecoveryLimitError
from orchestrator.recovery.replay import Journal, write_tables
from orchestrator.roles.local_ray import start_local
from orchestrator.roles.rollout import RolloutRole
from orchestrator.run_folder.folder import RunFolder
from policy.state.checkpoint import CheckpointError
from schemas.config import Sampling
from schemas.config.resources import Role
from schemas.task import NEGATIVE, Task

pytestmark = pytest.mark.cluster

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors' classes, which workers cannot import
LIMITS = Limits(start_s=60, call_s=60, silence_s=6)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    start_local(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture
def spawn() -> Iterator[Callable[..., ActorGroup]]:
    groups: list[ActorGroup] = []

    def start(role: str, actor_class: type, count: int, limits: Limits = LIMITS, *arguments: Any) -> ActorGroup:
        processes = Role(count=count)
        group = ActorGroup.spawn(
            role, actor_class, processes, 1, arguments=lambda rank: (rank, *arguments), limits=limits
        )
        groups.append(group)
        return group

    yield start
    for group in groups:
        group.stop()


def pid_of(group: ActorGroup, rank: int) -> int:
    return ray.get(group.actors[rank].whoami.remote()).pid


class Worker:
    """Waits, raises or adds, as asked."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def rest(self, seconds: float) -> int:
        time.sleep(seconds)
        return self.rank

    def refuse(self, bad_rank: int) -> int:
        if self.rank == bad_rank:
            raise ValueError("no")
        return self.rest(30)


def test_each_fault_ends_the_wait_and_says_who_what_and_how(spawn: Callable[..., ActorGroup]) -> None:
    group = spawn("worker", Worker, 3)
    assert group.call("rest", 0.0) == [0, 1, 2]

    with pytest.raises(GroupError, match=r"worker rank\(s\) 1: refuse: raised: ValueError: no"):
        group.call("refuse", 1)
    with pytest.raises(GroupError, match=r"worker rank\(s\) 0, 2: step 7: late: no answer within 2 s"):
        group.gather("step 7", {0: group.actors[0].rest.remote(9), 2: group.actors[2].rest.remote(9)}, 2)
    assert "time.sleep(seconds)" in group.stacks(())

    group.restart([0, 1, 2])
    group.call("rest", 0.0)
    refs = {rank: actor.rest.remote(60) for rank, actor in enumerate(group.actors)}
    os.kill(pid_of(group, 2), signal.SIGKILL)
    with pytest.raises(GroupError, match=r"worker rank\(s\) 2: sleep: died"):
        group.gather("sleep", refs)

    stopped = pid_of(group, 1)
    group.gather("awake", {1: group.actors[1].whoami.remote()})
    refs = {0: group.actors[0].rest.remote(60), 1: group.actors[1].rest.remote(60)}
    time.sleep(0.5)
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(GroupError, match=r"worker rank\(s\) 1: sleep: silent: no sign of life for 6 s"):
        group.gather("sleep", refs)
    assert f"process {stopped} on" in (found := group.stacks([1]))
    assert "T (stopped)" in found
    group.restart([1, 2])
    assert not alive(stopped)
    assert group.gather("rest", {rank: group.actors[rank].rest.remote(0) for rank in (1, 2)}) == {1: 1, 2: 2}


def alive(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
                return False
        except FileNotFoundError:
            return False
        time.sleep(0.05)
    return True


class Engine:
    """Plays an order in shards of one task, slowly; refuses another version than the one it was given."""

    def __init__(self, rank: int) -> None:
        self.version = 0

    def ready(self) -> int:
        return self.version

    def load_weights(self, version: int, *shards: int) -> int:
        assert shards == (7,)
        self.version = version
        return version

    def generate(self, order: Order, version: int) -> Iterator[pa.Table]:
        if version != self.version:
            raise RuntimeError(f"has {self.version}, not {version}")
        for number, task in enumerate(order.tasks):
            if number not in order.done:
                time.sleep(0.1)
                yield pa.table({"png": [b""]})
                yield pa.table({"group_id": [group_name(order.name, number, task)]})


class BadEngine(Engine):
    """Cannot play one of the tasks."""

    def generate(self, order: Order, version: int) -> Iterator[pa.Table]:
        if any(task.task_id == "t3" for task in order.tasks):
            raise ValueError("t3 has no room")
        yield from super().generate(order, version)


def tasks(count: int) -> tuple[Task, ...]:
    return tuple(Task(task_id=f"t{i}", prompt="?", ground_truth=NEGATIVE) for i in range(count))


def order(name: str, count: int) -> Order:
    return Order(name, tasks(count), 1, Sampling())


def names(shards: list[Any]) -> list[str]:
    return sorted(name for shard in shards for name in ray.get(shard.rollout).column("group_id").to_pylist())


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_that_is_lost_comes_back_and_every_group_arrives_once(
    spawn: Callable[..., ActorGroup], tmp_path: Path, fault: signal.Signals
) -> None:
    recoveries = Recoveries(tmp_path, 3)
    role = RolloutRole(spawn("rollout", Engine, 2), recoveries, shards=1, seed=None)
    role.load_weights(1, lambda: [ray.put(7)])
    pid = pid_of(role.group, 1)
    shards: list[Any] = []
    for shard in role.generate(order("000001", 40), version=1):
        shards.append(shard)
        if len(shards) == 10:
            os.kill(pid, fault)
    halves = {0: range(20), 1: range(20)}
    wanted = [group_name(f"000001.{r}", n, tasks(40)[20 * r + n]) for r, ns in halves.items() for n in ns]
    assert names(shards) == sorted(wanted)

    # The engine that was lost takes the next weights and its share of the next order.
    role.load_weights(2, lambda: [ray.put(7)])
    assert len(names(list(role.generate(order("000002", 40), version=2)))) == 40
    assert ray.get(role.group.actors[1].ready.remote()) == 2
    role.load_weights(3, lambda: [ray.put(7)])
    assert role.present() == [0, 1]
    assert recoveries.numbers()["recovery/rollout"] == 1


def test_the_only_engine_is_waited_for(spawn: Callable[..., ActorGroup], tmp_path: Path) -> None:
    role = RolloutRole(spawn("rollout", Engine, 1), Recoveries(tmp_path, 3), shards=1, seed=None)
    pid, shards = pid_of(role.group, 0), list[Any]()
    for shard in role.generate(order("000000", 8), version=0):
        shards.append(shard)
        if len(shards) == 3:
            os.kill(pid, signal.SIGKILL)
    assert len(set(names(shards))) == len(shards) == 8


def test_work_that_no_engine_can_do_ends_the_run(spawn: Callable[..., ActorGroup], tmp_path: Path) -> None:
    role = RolloutRole(spawn("rollout", BadEngine, 1), Recoveries(tmp_path, 9), shards=1, seed=None)
    with pytest.raises(GroupError, match="t3 has no room"):
        list(role.generate(order("000000", 6), version=0))


class Adder:
    """A learner in small: a running sum, saved in a file."""

    def __init__(self, rank: int, folder: str) -> None:
        self.rank, self.folder, self.total = rank, folder, 0.0

    def address(self) -> tuple[str, int]:
        return "nowhere", 1

    def start(self, host: str, port: int, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.total = float((Path(checkpoint) / "total").read_text())

    def update(self, table: pa.Table, factor: float) -> float:
        time.sleep(0.2)
        # Not commutative: a step that is left out, repeated or out of order shows.
        self.total = self.total * 1.5 + factor * sum(table.column("x").to_pylist())
        return self.total

    def stuck(self, marker: str) -> float:
        if self.rank == 1 and not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.total


@pytest.mark.parametrize("saved_at", [None, 2])
def test_a_rebuilt_group_repeats_what_the_checkpoint_lacks(
    spawn: Callable[..., ActorGroup], tmp_path: Path, saved_at: int | None
) -> None:
    folder = RunFolder(tmp_path)
    learner = DurableGroup(spawn("learner", Adder, 2, LIMITS, str(tmp_path)), folder, Recoveries(tmp_path, 5), "stop")
    learner.start(None)
    expected = 0.0
    for step in range(5):
        if step == saved_at:
            checkpoint = folder.checkpoint(step)
            checkpoint.mkdir(parents=True)
            (checkpoint / "total").write_text(str(expected))
            (checkpoint / "complete.json").write_text(json.dumps(sealed({"extra": {"step": step}})))
        table = ray.put(pa.table({"x": [step, step + 1]}))
        if step == 4:
            os.kill(pid_of(learner.group, 0), signal.SIGKILL)
        answers = learner.begin_update("update", table, 2.0).result()
        expected = expected * 1.5 + 2.0 * (2 * step + 1)
        assert answers == [expected, expected]
    assert learner.call("stuck", str(tmp_path / "once")) == [expected, expected]
    kept = sorted(p.name for p in (tmp_path / "replay" / "learner").iterdir())
    assert kept == [f"step-{step:06d}" for step in range(saved_at or 0, 5)]


def test_a_journal_gives_back_the_tables_it_was_given(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "replay", 30, "stop")
    table = pa.table({"token_ids": [[1, 2], [3]], "png": [b"a", b"b"]})
    for step in range(3):
        journal.record(step, "update", [ray.put(table), 0.5 + step])
    (entry,) = journal.between(1, 2)
    assert (entry.step, entry.method, entry.arguments[1]) == (1, "update", 1.5)
    assert ray.get(entry.arguments[0]).equals(table)
    journal.trim(2)
    assert [p.name for p in (tmp_path / "replay").iterdir()] == ["step-000002"]
    assert not list(journal.between(0, 2))


def test_a_full_disk_stops_the_run_or_costs_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(folder: str, *tables: pa.Table) -> None:
        if folder.endswith("step-000001"):
            raise OSError(28, "No space left on device")
        write_tables(folder, *tables)

    monkeypatch.setattr("orchestrator.recovery.replay.write_tables", full)
    table = ray.put(pa.table({"x": [1]}))
    strict, lenient = Journal(tmp_path / "strict", 30, "stop"), Journal(tmp_path / "lenient", 30, "continue")
    for journal in (strict, lenient):
        for step in range(2):
            journal.record(step, "update", [table])
        with pytest.raises(
            CheckpointError, match=r"step-000001.*No space left on device; free some.*cannot be repeated"
        ):
            list(journal.between(1, 2))
    strict = Journal(tmp_path / "strict", 30, "stop")
    for step in range(2):
        strict.record(step, "update", [table])
    ray.wait([strict._entries[-1].written], timeout=30)
    with pytest.raises(CheckpointError, match=r"step-000001.*No space left.*checkpoint\.on_error=continue goes on"):
        strict.record(2, "update", [table])
    lenient = Journal(tmp_path / "lenient", 30, "continue")
    for step in range(2):
        lenient.record(step, "update", [table])
    ray.wait([lenient._entries[-1].written], timeout=30)
    lenient.record(2, "update", [table])
    lenient.record(3, "update", [table])
    assert capsys.readouterr().out.count("NO REPLAY") == 1
    assert [entry.step for entry in lenient.between(2, 4)] == [2, 3]
    assert [entry.step for entry in lenient.between(0, 1)] == [0]
    lenient.trim(3)  # a checkpoint holds it: nothing is missing any more
    assert [path.name for path in (tmp_path / "lenient").iterdir()] == ["step-000003"]


def test_tables_that_do_not_fit_leave_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"x": [1]})
    seen: list[str] = []

    def full(path: str, mode: str) -> pa.OSFile:
        seen.append(path)
        if path.endswith("1.arrow"):
            raise OSError(28, "No space left on device")
        return plain(path, mode)

    plain = pa.OSFile
    monkeypatch.setattr("orchestrator.recovery.replay.pa.OSFile", full)
    with pytest.raises(OSError, match="No space left"):
        write_tables(str(tmp_path / "step-000000"), table, table)
    assert len(seen) == 2
    assert not list(tmp_path.iterdir())


def test_losses_are_counted_limited_and_written_down(tmp_path: Path) -> None:
    recoveries = Recoveries(tmp_path, 2)
    for step in range(2):
        recoveries.end(recoveries.begin(GroupError("learner", [1], f"update of step {step}", "died", "gone")))
    assert recoveries.numbers()["recovery/count"] == 2
    assert len((tmp_path / "recoveries.jsonl").read_text().splitlines()) == 2
    with pytest.raises(RecoveryLimitError, match=r"failure 3 within an hour, resources\.max_restarts allows 2"):
        recoveries.begin(GroupError("rollout", [0], "generate", "silent", "nothing"))


def test_the_same_error_twice_is_no_accident(tmp_path: Path) -> None:
    recoveries = Recoveries(tmp_path, 9)
    error = GroupError("learner", [1], "update of step 3", "raised", "ValueError: no")
    recoveries.begin(error)
    with pytest.raises(GroupError, match="ValueError: no"):
        recoveries.begin(error)
