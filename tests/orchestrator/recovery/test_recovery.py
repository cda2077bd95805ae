"""Parts that die, stop and raise: real processes of light actors on a real cluster, ended from outside."""

from __future__ import annotations

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

from actors.group import ActorGroup, GroupError, Limits, stored
from actors.player import Order, group_name
from actors.table_files import write_tables
from files.crash_safe import Digest, sealed, write_json
from orchestrator.recovery.durable_group import DurableGroup
from orchestrator.recovery.recoveries import Recoveries, RecoveryLimitError
from orchestrator.recovery.replay import Journal
from orchestrator.roles.dispatch import ShardRef
from orchestrator.roles.local_ray import start_local
from orchestrator.roles.reference import ReferenceRole
from orchestrator.roles.rollout import RolloutRole
from orchestrator.run_folder.folder import RunFolder
from policy.state.checkpoint import CheckpointError
from schemas.config import Checkpoint, Sampling
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
    assert group.call(Worker.rest, 0.0) == [0, 1, 2]

    with pytest.raises(GroupError, match=r"worker rank\(s\) 1: refuse: raised: ValueError: no"):
        group.call(Worker.refuse, 1)
    with pytest.raises(GroupError, match=r"worker rank\(s\) 0, 2: step 7: late: no answer within 2 s"):
        group.gather("step 7", {0: group.actors[0].rest.remote(9), 2: group.actors[2].rest.remote(9)}, 2)
    assert "time.sleep(seconds)" in group.stacks(())

    group.restart([0, 1, 2])
    group.call(Worker.rest, 0.0)
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


class Reference:
    """Scores a shard slowly; a new one needs the file that lets it be ready."""

    def __init__(self, rank: int, gate: str) -> None:
        deadline = time.monotonic() + 40
        while not Path(gate).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.rank = rank

    def ready(self) -> bool:
        return True

    def logprobs(self, rollout: str, images: str) -> tuple[str, int]:
        time.sleep(0.3)
        return rollout, self.rank


def test_shards_of_a_lost_replica_go_to_another_before_it_is_back(
    spawn: Callable[..., ActorGroup], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    recoveries = Recoveries(tmp_path, 3)
    role = ReferenceRole(spawn("reference", Reference, 2, LIMITS, str(gate)), recoveries)
    role.ready()
    gate.unlink()  # a new replica will not be ready
    pending = [role.logprobs(ShardRef(f"s{n}", f"s{n}", "")) for n in range(6)]
    assert [one.rank for one in pending] == [0, 1, 0, 1, 0, 1]
    os.kill(pid_of(role.group, 1), signal.SIGKILL)
    found: list[Any] = [one.result(timeout_s=30) for one in pending]
    assert [name for name, _ in found] == [f"s{n}" for n in range(6)]
    assert [rank for _, rank in found[2:]] == [0, 0, 0, 0]
    assert recoveries.numbers()["recovery/count"] == 0  # it is not back yet
    gate.touch()
    role.ready()
    assert recoveries.numbers()["recovery/reference"] == 1
    assert {role.logprobs(ShardRef("s", "s", "")).rank for _ in range(2)} == {0, 1}


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


def save(folder: RunFolder, step: int, total: float) -> Path:
    """A checkpoint as Adder reads it."""
    checkpoint = folder.checkpoint(step)
    checkpoint.mkdir(parents=True)
    (checkpoint / "total").write_text(str(total))
    files = {"total": Digest.of(checkpoint / "total").to_json()}
    write_json(checkpoint / "complete.json", sealed({"extra": {"step": step}, "files": files}))
    return checkpoint


class Learning:
    """A durable group of Adders, and the sum that it must have."""

    def __init__(self, group: ActorGroup, folder: Path, **options: Any) -> None:
        self.folder = RunFolder(folder)
        self.group = DurableGroup(group, self.folder, Recoveries(folder, 5), Checkpoint(**options))
        self.group.start(None)
        self.total, self.step = 0.0, 0

    def update(self) -> None:
        answers = self.group.begin_update(Adder.update, stored(pa.table({"x": [self.step, self.step + 1]})), 2.0)
        self.total = self.total * 1.5 + 2.0 * (2 * self.step + 1)
        self.step += 1
        assert answers.result() == [self.total, self.total]

    def save(self) -> Path:
        checkpoint = save(self.folder, self.step, self.total)
        self.group.saved(self.step)
        return checkpoint

    def kill(self) -> None:
        os.kill(pid_of(self.group.group, 0), signal.SIGKILL)

    def replay(self) -> list[int]:
        return sorted(int(path.name[5:]) for path in (self.folder.replay / "learner").iterdir())


Learn = Callable[..., Learning]


@pytest.fixture
def learn(spawn: Callable[..., ActorGroup], tmp_path: Path) -> Learn:
    return lambda **options: Learning(spawn("learner", Adder, 2, LIMITS, str(tmp_path)), tmp_path, **options)


@pytest.mark.parametrize("saved_at", [(), (2,), (1, 3)])
def test_a_rebuilt_group_repeats_what_the_checkpoint_lacks(learn: Learn, tmp_path: Path, saved_at: list[int]) -> None:
    learning = learn()
    for step in range(5):
        if step in saved_at:
            learning.save()
        if step == 4:
            learning.kill()
        learning.update()
    assert learning.group.call(Adder.stuck, str(tmp_path / "once")) == [learning.total] * 2
    # Those since the checkpoint before the newest: the newest may turn out to be damaged.
    assert learning.replay() == list(range(saved_at[0] if len(saved_at) > 1 else 0, 5))


@pytest.mark.parametrize("saved_at", [(3,), (1, 3)])
def test_a_damaged_newest_checkpoint_is_passed_over_with_the_replay_of_the_one_before(
    learn: Learn, saved_at: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    learning, newest = learn(), Path()
    for step in range(5):
        if step in saved_at:
            newest = learning.save()
        learning.update()
    (newest / "total").write_text("1" * len((newest / "total").read_text()))
    learning.kill()
    learning.update()
    assert f"DAMAGED      {newest}: damaged: total has other content" in capfd.readouterr().out


def test_without_a_checkpoint_to_fall_back_on_the_run_ends_and_says_so(learn: Learn) -> None:
    learning = learn(keep=1)
    for _ in range(2):
        learning.update()
    newest = learning.save()
    assert learning.replay() == []
    (newest / "total").unlink()
    learning.kill()
    with pytest.raises(CheckpointError, match=r"learner: no checkpoint is left .*total is missing.*keep=2 keeps one"):
        learning.update()


def test_a_damaged_table_of_the_replay_ends_the_run_and_is_named(learn: Learn, tmp_path: Path) -> None:
    learning = learn()
    for _ in range(2):
        learning.update()
    table = tmp_path / "replay" / "learner" / "step-000001" / "0.arrow"
    content = bytearray(table.read_bytes())
    content[content.index(b"\1\0\0\0\0\0\0\0\2\0")] = 7  # the first number of its column: Arrow would read it
    table.write_bytes(content)
    learning.kill()
    message = r"step-000001: 0\.arrow has other content than was written. The update of step 1 cannot be repeated"
    with pytest.raises(CheckpointError, match=message):
        learning.update()


def test_a_journal_gives_back_the_tables_it_was_given(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "replay", 30, "stop")
    table = pa.table({"token_ids": [[1, 2], [3]], "png": [b"a", b"b"]})
    for step in range(3):
        journal.record(step, Adder.update, [ray.put(table), 0.5 + step])
    ((entry, arguments),) = journal.between(1, 2)
    assert (entry.step, entry.method, arguments[1]) == (1, Adder.update, 1.5)
    assert ray.get(arguments[0]).equals(table)
    journal.trim(2)
    assert [p.name for p in (tmp_path / "replay").iterdir()] == ["step-000002"]
    assert not list(journal.between(0, 2))


def test_what_an_earlier_process_left_of_a_journal_is_never_read(tmp_path: Path) -> None:
    """A run that is continued starts at its checkpoint: damaged tables of before are deleted, never taken for new."""
    folder = tmp_path / "replay"
    left = folder / "step-000000"
    left.mkdir(parents=True)
    (left / "0.arrow").write_bytes(b"torn")
    table = pa.table({"x": [1]})
    journal = Journal(folder, 30, "stop")
    journal.record(0, Adder.update, [ray.put(table)])
    ((_, arguments),) = journal.between(0, 1)
    assert ray.get(arguments[0]).equals(table)
    folder = tmp_path / "a file"
    folder.touch()
    with pytest.raises(NotADirectoryError):
        Journal(folder, 30, "stop")


def test_a_full_disk_stops_the_run_or_costs_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(folder: str, *tables: pa.Table) -> dict[str, Digest]:
        if folder.endswith("step-000001"):
            raise OSError(28, "No space left on device")
        return write_tables(folder, *tables)

    monkeypatch.setattr("orchestrator.recovery.replay.write_tables", full)
    table = ray.put(pa.table({"x": [1]}))
    strict, lenient = Journal(tmp_path / "strict", 30, "stop"), Journal(tmp_path / "lenient", 30, "continue")
    for journal in (strict, lenient):
        for step in range(2):
            journal.record(step, Adder.update, [table])
        with pytest.raises(
            CheckpointError, match=r"step-000001.*No space left on device; free some.*cannot be repeated"
        ):
            list(journal.between(1, 2))
    strict = Journal(tmp_path / "strict", 30, "stop")
    for step in range(2):
        strict.record(step, Adder.update, [table])
    ray.wait([strict._entries[-1].written], timeout=30)
    with pytest.raises(CheckpointError, match=r"step-000001.*No space left.*checkpoint\.on_error=continue goes on"):
        strict.record(2, Adder.update, [table])
    lenient = Journal(tmp_path / "lenient", 30, "continue")
    for step in range(2):
        lenient.record(step, Adder.update, [table])
    ray.wait([lenient._entries[-1].written], timeout=30)
    lenient.record(2, Adder.update, [table])
    lenient.record(3, Adder.update, [table])
    assert capsys.readouterr().out.count("NO REPLAY") == 1
    assert [entry.step for entry, _ in lenient.between(2, 4)] == [2, 3]
    assert [entry.step for entry, _ in lenient.between(0, 1)] == [0]
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
    monkeypatch.setattr("actors.table_files.pa.OSFile", full)
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
