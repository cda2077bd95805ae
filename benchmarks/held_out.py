"""What benchmarks of whole runs share: a training as a process with its CPU time, held-out play, paired differences.

    python benchmarks/held_out.py MODEL FILE [TASKS]      # play the test split, write each task's result

What was done leaves a file, so that an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from files.crash_safe import write_json
from orchestrator.batch.tasks import read_split
from orchestrator.evaluation.evaluate import evaluate
from orchestrator.evaluation.frames import frame_of
from orchestrator.roles.cluster import Players, connect, recoveries_of
from pointing.metrics import measure
from schemas.config import Sampling, TrainConfig, Validation
from schemas.config.file import load

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
SETTINGS = {
    "temperature 1": Validation(samples=3, sampling=Sampling(), greedy=False),
    "validation": Validation(samples=3, greedy=False),
    "greedy": Validation(samples=1, sampling=Sampling(temperature=0.0), greedy=False),
}
ByTask = dict[str, dict[str, dict[str, float]]]  # setting -> metric -> task -> mean over draws


def pointvg(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *arguments]


def cpu_seconds_of(command: Sequence[str]) -> float:
    """Runs a command and returns the CPU time of it and of every process below it, as last seen."""
    process = subprocess.Popen(command, cwd=ROOT)
    root = psutil.Process(process.pid)
    spent: dict[psutil.Process, float] = {}
    while process.poll() is None:
        for each in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                spent[each] = times.user + times.system
        time.sleep(1.0)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return sum(spent.values())


def play_apart(model: str, file: Path, limit: int | None = None) -> ByTask:
    """`play`, once, in a process of its own: Serve remembers a process's earlier clusters."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        given = [model, str(file.resolve()), *([str(limit)] if limit else [])]
        subprocess.run([sys.executable, str(Path(__file__).resolve()), *given], cwd=ROOT, check=True)
    return json.loads(file.read_text(encoding="utf-8"))


def once(file: Path, make: Any) -> Any:
    """The JSON that `make()` gave when this file was first asked for."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, make())
    return json.loads(file.read_text(encoding="utf-8"))


def play(model: str, limit: int | None = None) -> ByTask:
    """Every setting on the test split (its first `limit` tasks) with one model."""
    config = load(TrainConfig, QUICKSTART, [f"model.path={model}"]).config
    tasks = read_split(config, "test")[:limit]
    connect(config.resources)
    players = Players(config, recoveries_of(config))
    found: ByTask = {}
    try:
        for number, (setting, options) in enumerate(SETTINGS.items()):
            table = evaluate(players, tasks, options, version=0, step=number).trajectories
            found[setting] = by_task(table, {task.task_id: task for task in tasks})
    finally:
        players.shutdown()
    return found


def by_task(table: Any, tasks: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Mean reward and object IoU (positives only) of each task."""
    rewards: dict[str, list[float]] = {}
    ious: dict[str, list[float]] = {}
    for row in table.to_pylist():
        rewards.setdefault(row["task_id"], []).append(row["reward"])
        iou = measure(row["reply"], tasks[row["task_id"]].ground_truth, frame_of(row)).object_iou
        if iou is not None:
            ious.setdefault(row["task_id"], []).append(iou)
    return {
        "reward": {name: round(float(np.mean(values)), 5) for name, values in rewards.items()},
        "object mIoU": {name: round(float(np.mean(values)), 5) for name, values in ious.items()},
    }


def compare(start: Mapping[str, float], end: Mapping[str, float]) -> tuple[float, float, float]:
    """Mean at the end, paired difference, and the difference's standard error over tasks."""
    difference = np.asarray([end[name] - start[name] for name in start])
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return float(np.mean(list(end.values()))), float(difference.mean()), float(error)


if __name__ == "__main__":
    name, out, *rest = sys.argv[1:]
    write_json(Path(out), play(name, int(rest[0]) if rest else None))
