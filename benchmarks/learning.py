"""Does reinforcement learning teach anything that more supervised training would not?

    python benchmarks/learning.py [--seeds 1 2 3] [--steps 60]

From the shipped SFT start, for every seed: stage 2 as `make train` runs it, and two controls from the same start for
the same CPU-minutes: more stage 1 on its own scenes, and stage 1 on transcripts of the very scenes that stage 2 plays.
At the end, once, every model plays the test split at temperature 1, at the validation setting (temperature 0.6, top-p
0.95), 3 draws each, and greedily. Differences are paired by task; their standard errors are over tasks. One result file
per run in benchmarks/results/learning/, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from held_out import QUICKSTART, ROOT, SETTINGS, ByTask, compare, cpu_seconds_of, once, play_apart, pointvg

from orchestrator.run_folder.folder import versions
from schemas.config import TrainConfig
from schemas.config.file import load

RESULTS = ROOT / "benchmarks" / "results" / "learning"
CONTROL = "configs/tiny_sft.yaml"
KINDS = {"rl": "RL", "control": "more SFT", "transcripts": "SFT on these scenes"}
CALIBRATION = 6400  # samples of the run that tells what a sample costs


def train(name: str, command: list[str]) -> dict[str, Any]:
    """Runs one training once; its record says what it cost."""

    def record() -> dict[str, Any]:
        return {"name": name, "cpu_minutes": cpu_seconds_of(command) / 60, "command": command[1:]}

    return once(RESULTS / f"{name}.json", record)


def played(name: str, model: str) -> ByTask:
    """The test split, played once with each model."""
    return play_apart(model, RESULTS / f"test-{name}.json")


def table(runs: Sequence[str]) -> str:
    """The result as Markdown: a row per model, gains over the start with their standard errors over tasks."""
    start = played("start", str(load(TrainConfig, QUICKSTART).config.model.path))
    columns = [(setting, metric) for setting in SETTINGS for metric in ("reward", "object mIoU")]
    before = [f"{np.mean(list(start[setting][metric].values())):.3f}" for setting, metric in columns]
    lines = [
        "| model | " + " | ".join(f"{metric}, {setting}" for setting, metric in columns) + " |",
        "|---|" + "---|" * len(columns),
        f"| start | {' | '.join(before)} |",
    ]
    for name in runs:
        kind, seed = name.split("-")
        end = played(name, str(ROOT / "runs" / f"learning-{name}" / "export"))
        found = [compare(start[setting][metric], end[setting][metric]) for setting, metric in columns]
        cells = [f"{mean:.3f} ({gain:+.3f} ± {error:.3f})" for mean, gain, error in found]
        lines.append(f"| {KINDS[kind]}, seed {seed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    quickstart = load(TrainConfig, QUICKSTART).config
    parser.add_argument("--steps", type=int, default=quickstart.trainer.max_steps)
    given = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    start = quickstart.model.path
    sft = [*pointvg("sft", "--config", CONTROL), f"model.path={start}", "learner.optimiser.lr=1.0e-3"]
    calibration = train("calibration", [*sft, "run.name=learning-calibration", f"trainer.samples={CALIBRATION}"])
    empty = train("calibration-start", [*sft, "run.name=learning-calibration-start", "trainer.samples=32"])
    per_sample = (calibration["cpu_minutes"] - empty["cpu_minutes"]) / (CALIBRATION - 32)
    minutes: dict[int, float] = {}
    for seed in given.seeds:
        options = [f"run.seed={seed}", f"trainer.max_steps={given.steps}", "validation={every: 0, before: false}"]
        config = str(QUICKSTART.relative_to(ROOT))
        command = [*pointvg("train", "--config", config), f"run.name=learning-rl-{seed}", *options]
        minutes[seed] = train(f"rl-{seed}", command)["cpu_minutes"]
    for kind, data in (("control", []), ("transcripts", [f"data.train_files={quickstart.data.train_files}"])):
        for seed, spent in minutes.items():
            samples = int((spent - empty["cpu_minutes"]) / per_sample)
            options = [f"run.name=learning-{kind}-{seed}", f"run.seed={seed + 100}", f"trainer.samples={samples}"]
            train(f"{kind}-{seed}", [*sft, *options, *data])
    result = table([f"{kind}-{seed}" for kind in KINDS for seed in given.seeds])
    print(result)
    runs = [
        json.loads(f.read_text(encoding="utf-8")) for f in sorted(RESULTS.glob("*-?.json")) if "test-" not in f.name
    ]
    costs = "\n".join(f"- {run['name']}: {run['cpu_minutes']:.1f} CPU-minutes" for run in runs)
    text = f"# Learning\n\n{result}\n\n{costs}\n\nVersions: {json.dumps(versions())}\n"
    (RESULTS.parent / "learning.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
