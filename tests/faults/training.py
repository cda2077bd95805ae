"""A real training run in processes of its own, and what happens to it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml

from tests.small_run import small_run

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("hurt.py")
STEPS = 6
TASKS, SAMPLES = 8, 2
LEARNER = {"optimiser": {"lr": 1e-4}, "micro_batch_rows": 4}
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
T = TypeVar("T")


def config(folder: Path, scenes: Path) -> dict[str, Any]:
    """The small model that ships with the project, PPO with a reference, two of every part, steps of a few seconds."""
    return small_run(
        scenes,
        folder,
        run={"name": "run", "deterministic": True},
        rollout={
            "tasks_per_step": TASKS,
            "samples_per_task": SAMPLES,
            "max_tokens_per_turn": 32,
            "engine": {"max_model_len": 224},
        },
        algorithm={"advantage": "gae", "kl": {"coefficient": 0.01, "place": "reward", "estimator": "k1"}},
        learner=LEARNER,
        critic=LEARNER,
        checkpoint={"every": 2, "keep": 1},
        reward={"replicas": 2, "cpus_per_replica": 0.25},
        resources={
            "rollout": {"count": 2, "place": {"strategy": "SPREAD"}},
            "learner": {"count": 2},
            "reference": {"count": 2},
            "critic": {"count": 2},
            "silence_timeout_s": 10.0,
        },
        trainer={"max_steps": STEPS},
    )


class Training:
    """`pointvg train` as a child process in which parts are hurt; see hurt.py."""

    def __init__(
        self, values: dict[str, Any], hurt: Mapping[str, str] = {}, environment: Mapping[str, str] = {}
    ) -> None:
        """`hurt` says what happens to which part; `environment` is added to the process's."""
        self.folder = Path(values["run"]["folder"]) / values["run"]["name"]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._environment = environment
        self._file = self.folder.with_suffix(".yaml")
        self._file.write_text(yaml.safe_dump(values), encoding="utf-8")
        self.marks = self.folder.with_suffix(".hurt")
        self.marks.mkdir()
        for part, fault in hurt.items():
            (self.marks / part).write_text(fault)
        self.log = self.folder.with_suffix(".log")
        self.start()

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """The command, for the first time or again."""
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), **self._environment}
        with self.log.open("a", encoding="utf-8") as log:
            self.driver = subprocess.Popen(
                [sys.executable, str(PROGRAM), "train", "--config", str(self._file)],
                cwd=ROOT,
                # Workers at ordinary priority: on a busy machine a starved process cannot be told from a stopped one.
                env=environment | {"RAY_worker_niceness": "0"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, ready: Callable[[], T], seconds: float, *, alive: bool = True) -> T:
        """What `ready` returns once it is true; fails when the run ends first or nothing happens in time."""
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            assert not alive or self.driver.poll() is None, f"the run ended ({self.driver.returncode}):\n{self.tail()}"
            assert time.monotonic() < deadline, f"nothing within {seconds:.0f} s:\n{self.tail()}"
            time.sleep(0.05)
        return found

    def after_step(self, step: int) -> None:
        """Returns when the step is in the log."""
        self.until(lambda: any(r["step"] == step for r in self.records()), 700)

    def finish(self, seconds: float = 1000) -> None:
        """Waits for the end, which must be a good one."""
        self.until(lambda: self.driver.poll() == 0, seconds)

    def actor(self, name: str) -> psutil.Process:
        """The process of an actor."""
        return next(p for p in self.family() if _title(p).startswith(f"ray::{name}"))

    def kill_driver(self) -> None:
        """SIGKILL; what it leaves behind must end by itself, and fails the test where it does not.

        Ray's own agents may take minutes; they hold nothing that a new run needs.
        """
        family = {process: _title(process) for process in self.family()}
        self.driver.kill()
        self.driver.wait()
        deadline = time.monotonic() + 60
        ours = [process for process, title in family.items() if not title.startswith(AGENTS)]
        while (left := [family[process] for process in ours if _runs(process)]) and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in family:
            _kill(process)
        assert not left, f"left behind: {left}"

    def stop(self) -> None:
        """Ends what is left of the run."""
        family = self.family() if self.driver.poll() is None else []
        for process in family:
            _kill(process)
        self.driver.kill()
        self.driver.wait()

    def family(self) -> list[psutil.Process]:
        """Every process below the driver."""
        return psutil.Process(self.driver.pid).children(recursive=True)

    def records(self) -> list[dict[str, Any]]:
        """The steps' lines of metrics.jsonl."""
        return [r for r in _lines(self.folder / "metrics.jsonl") if r["kind"] == "train"]

    def recoveries(self) -> list[dict[str, Any]]:
        """Lines of recoveries.jsonl."""
        return _lines(self.folder / "recoveries.jsonl")

    def when(self, name: str) -> list[float]:
        """When something happened, by the clock, ascending; see hurt.py. A part's own name: when it was hurt."""
        return sorted(float(file.name.split(".", 1)[1]) for file in self.marks.glob(f"{name}.*"))

    def noticed(self, role: str) -> tuple[float, str]:
        """When and as what the first loss of a role was noticed. The reward mends itself, and tells when it is back."""
        if marks := sorted(self.marks.glob(f"noticed-{role}.*")):
            return self.when(f"noticed-{role}")[0], marks[0].read_text()
        (back,) = (r for r in self.recoveries() if r["role"] == role)
        return back["time"] - back["seconds"], back["fault"]

    def played_again(self) -> float | None:
        """When an engine first took over what a lost one had not finished, by the clock."""
        orders = {file.name.split(".", 1)[0] for file in self.marks.glob("order-*")}
        return min((times[1] for order in orders if len(times := self.when(order)) > 1), default=None)

    def trajectories(self, step: int) -> list[str]:
        """The ids that the learner was given in a step, the last time."""
        return json.loads((self.marks / f"given.{step}").read_text())

    def tail(self) -> str:
        """The end of the run's output."""
        return self.log.read_text(encoding="utf-8")[-4000:]


def assert_equal(run: Training, undisturbed: Training) -> None:
    """The same numbers in every step, the same model at the end, and every trajectory exactly once."""
    expected = {r["step"]: numbers(r) for r in undisturbed.records()}
    found = run.records()
    assert sorted({r["step"] for r in found}) == list(range(STEPS))
    for record in found:  # those of a step that a new driver made again, too
        assert numbers(record) == expected[record["step"]], record["step"]
    weights = "export/model.safetensors"
    assert (run.folder / weights).read_bytes() == (undisturbed.folder / weights).read_bytes()
    for step in range(STEPS):
        ids = run.trajectories(step)
        assert len(set(ids)) == len(ids) == TASKS * SAMPLES
        assert sorted(ids) == sorted(undisturbed.trajectories(step))


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """What a repeated run must repeat: everything but times and what was lost."""
    return {k: v for k, v in record.items() if k != "time" and not k.startswith(("time/", "pace/", "recovery/"))}


@dataclass(frozen=True, order=True)
class Row:
    """One cell of the matrix: how the fault was found, after how many seconds, and how many more until the work that
    was lost was taken up again and until the part was back.

    >>> Row("learner", "SIGKILL", "died", 0.1, 12.5, 12.5).part
    'learner'
    """

    part: str
    fault: str
    found: str
    noticed_s: float | None = None
    resumed_s: float | None = None
    back_s: float | None = None


def row_of(run: Training, part: str, fault: str, role: str) -> Row:
    """What a run tells about a part of a role that was hurt in it.

    It may end before an engine or a reference replica is back. When another replica took work up is not noted.
    """
    (hurt_at,), (noticed_at, found) = run.when(part), run.noticed(role)
    back_s = next((r["seconds"] for r in run.recoveries() if r["role"] == role), None)
    again = run.played_again() if role == "rollout" else None
    resumed_s = None if role == "reference" else back_s if again is None else again - noticed_at
    return Row(part, fault, found, noticed_at - hurt_at, resumed_s, back_s)


def table(rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = ["| part | fault | found as | noticed after, s | its work goes on after, s | it is back after, s |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows:
        times = ("-" if s is None else f"{s:.1f}" for s in (row.noticed_s, row.resumed_s, row.back_s))
        lines.append(f"| {row.part} | {row.fault} | {row.found} | {' | '.join(times)} |")
    return "\n".join(lines)


def signalled(process: psutil.Process, fault: str) -> None:
    """Sends SIGKILL or SIGSTOP."""
    process.send_signal(signal.Signals[fault])


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended; one that nobody has reaped has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
