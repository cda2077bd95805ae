"""Does reinforcement learning teach anything that more supervised training would not?

    python benchmarks/learning.py [--seeds 1 2 3] [--steps 150]

From the shipped SFT start, for every seed: stage 2 as `make train` runs it, and as a control more stage 1 from the same
start for the same CPU-minutes. At the end, once, every model plays the test split at temperature 1, at the validation
setting (temperature 0.6, top-p 0.95, 3 draws) and greedily. Differences are paired by task; their standard errors are
over tasks. One result file per run in benchmarks/results/learning/, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from orchestrator.cluster import Players, connect
from orchestrator.data import read_split
from orchestrator.evaluate import evaluate, frame_of
from orchestrator.folder import versions, write_atomically
from pointing.metrics import measure
from schemas.config import Sampling, TrainConfig, Validation
from schemas.config_file import load

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "learning"
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
CONTROL = ROOT / "configs" / "tiny_sft.yaml"
SETTINGS = {
    "temperature 1": Validation(samples=1, sampling=Sampling(), greedy=False),
    "validation": Validation(samples=3, greedy=False),
    "greedy": Validation(samples=1, sampling=Sampling(temperature=0.0), greedy=False),
}
CALIBRATION = 1600  # samples of the run that tells what a sample costs


def cpu_seconds_of(command: list[str]) -> float:
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


def pointvg(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *arguments]


def train(name: str, command: list[str]) -> dict[str, Any]:
    """Runs one training once; its record says what it cost."""
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        cpu = cpu_seconds_of(command)
        write_atomically(file, json.dumps({"name": name, "cpu_minutes": cpu / 60, "command": command[1:]}, indent=2))
    return json.loads(file.read_text(encoding="utf-8"))


def play(name: str, model: str) -> dict[str, Any]:
    """Every setting on the whole test split with one model; reward and object IoU of each task."""
    file = RESULTS / f"test-{name}.json"
    if not file.is_file():
        config = load(TrainConfig, QUICKSTART, [f"model.path={model}"]).config
        tasks = read_split(config, "test")
        connect(config.resources)
        players = Players(config)
        found: dict[str, Any] = {}
        try:
            for number, (setting, options) in enumerate(SETTINGS.items()):
                table = evaluate(players, tasks, options, version=0, step=number).trajectories
                found[setting] = by_task(table, {task.task_id: task for task in tasks})
        finally:
            players.shutdown()
        write_atomically(file, json.dumps(found))
    return json.loads(file.read_text(encoding="utf-8"))


def by_task(table: Any, tasks: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Mean reward and object IoU (positives only) of each task."""
    rewards: dict[str, list[float]] = {}
    ious: dict[str, list[float]] = {}
    for row in table.to_pylist():
        rewards.setdefault(row["task_id"], []).append(row["reward"])
        iou = measure(row["reply"], tasks[row["task_id"]].ground_truth, frame_of(row)).object_iou
        if iou is not None:
            ious.setdefault(row["task_id"], []).append(iou)
    return {
        "reward": {name: float(np.mean(values)) for name, values in rewards.items()},
        "object mIoU": {name: float(np.mean(values)) for name, values in ious.items()},
    }


def compare(start: dict[str, float], end: dict[str, float]) -> tuple[float, float, float]:
    """Mean at the end, paired difference, and the difference's standard error over tasks."""
    difference = np.asarray([end[name] - start[name] for name in start])
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return float(np.mean(list(end.values()))), float(difference.mean()), float(error)


def table(seeds: list[int]) -> str:
    """The result as Markdown."""
    start = play("start", str(load(TrainConfig, QUICKSTART).config.model.path))
    lines = [
        "| setting | metric | start | " + " | ".join(f"{kind}, seed {s}" for kind in ("RL", "control") for s in seeds)
    ]
    lines[0] += " |"
    lines.append("|---|---|---|" + "---|" * (2 * len(seeds)))
    for setting in SETTINGS:
        for metric in ("reward", "object mIoU"):
            before = start[setting][metric]
            cells = []
            for kind in ("rl", "control"):
                for seed in seeds:
                    end = play(f"{kind}-{seed}", str(ROOT / "runs" / f"learning-{kind}-{seed}" / "export"))
                    mean, gain, error = compare(before, end[setting][metric])
                    cells.append(f"{mean:.3f} ({gain:+.3f} ± {error:.3f})")
            mean = float(np.mean(list(before.values())))
            lines.append(f"| {setting} | {metric} | {mean:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=150)
    given = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    start = load(TrainConfig, QUICKSTART).config.model.path
    sft = [*pointvg("sft", "--config", str(CONTROL)), f"model.path={start}", "learner.optimiser.lr=1.0e-3"]
    calibration = train("calibration", [*sft, "run.name=learning-calibration", f"trainer.samples={CALIBRATION}"])
    empty = train("calibration-start", [*sft, "run.name=learning-calibration-start", "trainer.samples=32"])
    per_sample = (calibration["cpu_minutes"] - empty["cpu_minutes"]) / (CALIBRATION - 32)
    for seed in given.seeds:
        options = [f"run.seed={seed}", f"trainer.max_steps={given.steps}", "validation={every: 0, before: false}"]
        rl = train(
            f"rl-{seed}",
            [*pointvg("train", "--config", str(QUICKSTART)), f"run.name=learning-rl-{seed}", *options],
        )
        samples = int((rl["cpu_minutes"] - empty["cpu_minutes"]) / per_sample)
        train(
            f"control-{seed}",
            [*sft, f"run.name=learning-control-{seed}", f"run.seed={seed + 100}", f"trainer.samples={samples}"],
        )
    result = table(given.seeds)
    print(result)
    runs = [
        json.loads(f.read_text(encoding="utf-8")) for f in sorted(RESULTS.glob("*-?.json")) if "test-" not in f.name
    ]
    costs = "\n".join(f"- {run['name']}: {run['cpu_minutes']:.1f} CPU-minutes" for run in runs)
    text = f"# Learning\n\n{result}\n\n{costs}\n\nVersions: {json.dumps(versions())}\n"
    (RESULTS.parent / "learning.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
