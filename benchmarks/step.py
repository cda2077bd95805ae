"""Where the time of a training step goes, on the quickstart's model, data and sizes.

    python benchmarks/step.py [--steps 12] [OVERRIDES ...]

Runs the real loop with every role and no validation, leaves out the first two steps, and prints medians and shares of
rollout, wait (reward and reference beyond the rollouts they overlap), update, publish and everything else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from orchestrator.run_folder.folder import versions
from orchestrator.train_run import run_training
from schemas.config import TrainConfig
from schemas.config.file import load

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("rollout", "wait", "update", "publish", "other")
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "step.json")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"run.folder={folder}",
            "run.name=step",
            f"trainer.max_steps={given.steps}",
            "validation={before: false, after: false}",
            "checkpoint.every=0",
            *given.overrides,
        ]
        config = load(TrainConfig, ROOT / "configs" / "quickstart.yaml", overrides).config
        outcome = run_training(config)
        lines = outcome.folder.metrics.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines][WARM_UP:]
    median = {stage: statistics.median(r[f"time/{stage}"] for r in records) for stage in (*STAGES, "step")}
    steps = [r["time/step"] for r in records]
    rates = {
        "trajectories/s": config.plan.trajectories / median["step"],
        "sampled tokens/s in rollout": statistics.median(
            r["reply/trained_tokens"] / r["time/rollout"] for r in records
        ),
        "sampled tokens/s in step": statistics.median(r["reply/trained_tokens"] / r["time/step"] for r in records),
    }
    print(
        f"\n{config.plan}\n{len(records)} steps, {median['step']:.2f} s median ({min(steps):.2f} to {max(steps):.2f})"
    )
    for stage in STAGES:
        print(f"  {stage:8} {median[stage]:7.3f} s  {100 * median[stage] / median['step']:5.1f} %")
    for name, value in rates.items():
        print(f"  {name}: {value:.0f}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "plan": str(config.plan),
        "steps": len(records),
        "median_s": median,
        "rates": rates,
        "versions": versions(),
    }
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
