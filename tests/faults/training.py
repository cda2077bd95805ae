"""A real training run in processes of its own, and what happens to it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("-m", "orchestrator")
RAISING = (str(Path(__file__).with_name("raising_run.py")),)
T = TypeVar("T")


def config(folder: Path, scenes: Path, **changes: Any) -> dict[str, Any]:
    """The small model that ships with the project, in steps of a few seconds, with two of every part."""
    values: dict[str, Any] = {
        "run": {"name": "run", "folder": str(folder), "deterministic": True},
        "model": {"path": str(ROOT / "models" / "tiny")},
        "data": {
            "train_files": str(scenes / "train.jsonl"),
            "validation_files": str(scenes / "validation.jsonl"),
            "prompt_style": "short",
            "min_pixels": 12544,
            "max_pixels": 12544,
        },
        "rollout": {
            "tasks_per_step": 8,
            "samples_per_task": 4,
            "max_tokens_per_turn": 40,
            "engine": {"max_model_len": 256},
        },
        "algorithm": {"adaptive": {}, "kl": {"coefficient": 0.01}},
        "learner": {"optimiser": {"lr": 1e-4}, "micro_batch_rows": 8},
        "validation": {"before": False, "samples": 1},
        "checkpoint": {"every": 3, "keep": 1, "keep_best": False},
        "resources": {
            "rollout_engines": 2,
            "learner_ranks": 2,
            "reference_replicas": 2,
            "object_store_bytes": 2**28,
            "silence_timeout_s": 10.0,
        },
        "trainer": {"max_steps": 6, "samples_to_log": 1},
    }
    for path, value in changes.items():
        section, _, key = path.partition("__")
        values[section][key] = value
    return values


class Training:
    """`pointvg train` as a child process; kill what you like of it."""

    def __init__(self, values: dict[str, Any], program: Sequence[str] = PROGRAM) -> None:
        self._program = program
        self.folder = Path(values["run"]["folder"]) / values["run"]["name"]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self.folder.with_suffix(".yaml")
        self._file.write_text(yaml.safe_dump(values), encoding="utf-8")
        self.log = self.folder.with_suffix(".log")
        self._seen: set[Path] = set()
        self.start()

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """The command, for the first time or again."""
        with self.log.open("a", encoding="utf-8") as log:
            self.driver = subprocess.Popen(
                [sys.executable, *self._program, "train", "--config", str(self._file)],
                cwd=ROOT,
                # Workers at ordinary priority: on a busy machine a starved process cannot be told from a stopped one.
                env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, ready: Callable[[], T], seconds: float, every: float = 0.05) -> T:
        """What `ready` returns once it is true; fails when the run ends first or nothing happens in time."""
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            assert self.driver.poll() is None, f"the run ended ({self.driver.returncode}):\n{self.tail()}"
            assert time.monotonic() < deadline, f"nothing within {seconds:.0f} s:\n{self.tail()}"
            self.keep_batches()
            time.sleep(every)
        return found

    def after_step(self, step: int) -> None:
        """Returns when the step is in the log."""
        self.until(lambda: any(r["step"] == step for r in self.records("train")), 500)

    def busy(self, actor: str, method: str) -> int:
        """The process of an actor that is in this method just now, or of any such actor without a method."""
        pids = [pid for pid, title in self.processes() if title.startswith(f"ray::{actor}")]
        wanted = f"ray::{actor}.{method}" if method else f"ray::{actor}"
        return self.until(lambda: next((p for p in pids if _title(p).startswith(wanted)), 0), 120, every=0.005)

    def kill_driver(self) -> None:
        """SIGKILL; what the driver leaves behind must end by itself, and is ended where it does not."""
        left = [pid for pid, _ in self.processes()]
        _kill(self.driver.pid)
        self.driver.wait()
        deadline = time.monotonic() + 60
        while (left := [pid for pid in left if _title(pid)]) and time.monotonic() < deadline:
            time.sleep(0.5)
        for pid in left:
            _kill(pid)

    def finish(self, seconds: float = 500) -> None:
        """Waits for the end, which must be a good one."""
        self.until(lambda: self.driver.poll() == 0, seconds)

    def stop(self) -> None:
        """Ends what is left of the run."""
        for pid, _ in [*self.processes()]:
            _kill(pid)
        _kill(self.driver.pid)
        self.driver.wait()

    def processes(self) -> Iterator[tuple[int, str]]:
        """Every process below the driver, with its title."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except (FileNotFoundError, ProcessLookupError):
                    continue
                parents.setdefault(parent, []).append(int(entry.name))
        waiting = list(parents.get(self.driver.pid, []))
        while waiting:
            pid = waiting.pop()
            waiting += parents.get(pid, [])
            yield pid, _title(pid)

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl."""
        return [r for r in _lines(self.folder / "metrics.jsonl") if r["kind"] == kind]

    def recoveries(self) -> list[dict[str, Any]]:
        """Lines of recoveries.jsonl."""
        return _lines(self.folder / "recoveries.jsonl")

    def keep_batches(self) -> None:
        """Links every training table that is noted for a replay, before a checkpoint lets it go."""
        for file in (self.folder / "replay" / "learner").glob("step-*/0.arrow"):
            if file not in self._seen:
                kept = self.folder / "kept" / f"{file.parent.name}.arrow"
                kept.parent.mkdir(exist_ok=True)
                kept.unlink(missing_ok=True)
                try:
                    os.link(file, kept)
                except FileNotFoundError:
                    continue
                self._seen.add(file)

    def tail(self) -> str:
        """The end of the run's output."""
        return self.log.read_text(encoding="utf-8")[-4000:]


def print_table(fault: str, run: Training) -> None:
    """What was lost and how long it took to be back, from detection."""
    for record in run.recoveries():
        print(f"{fault:10} {record['role']:10} {record['what']:32} {record['fault']:7} {record['seconds']:6.1f} s")


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def _title(pid: int) -> str:
    """The process's title, "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """What a repeated run must repeat: everything but times and what was lost."""
    return {k: v for k, v in record.items() if k != "time" and not k.startswith(("time/", "recovery/"))}
