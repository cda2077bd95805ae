"""Which advantage learns most from the same number of trajectories?

    python benchmarks/methods.py [--seeds 1 2 3] [--methods adaptive grpo ...] [--steps 31]
    python benchmarks/methods.py --report             # tables and plot from the results that there are

Every run starts from the shipped SFT model and plays 31 steps of 32 tasks x 8 samples = 7,936 trajectories, with the
settings of configs/quickstart.yaml but for the method. Runs of one seed see the same tasks in the same order. Then the
model plays the whole test split. One result file per run in benchmarks/results/methods/: a run that has one is not made
again. The report is docs/comparison.md with a plot beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from held_out import QUICKSTART, ROOT, SETTINGS, ByTask, cpu_seconds_of, once, play_apart, pointvg
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from files.crash_safe import write_text
from orchestrator.run_folder.folder import versions
from schemas.config import TrainConfig
from schemas.config.file import load

RESULTS = ROOT / "benchmarks" / "results" / "methods"
PAGE = ROOT / "docs" / "comparison.md"
PLOT = ROOT / "docs" / "comparison.png"
STANDARD = "adaptive"  # what the others are compared with
UNCLIPPED = "algorithm.adaptive={statistic: variance, mapping: sqrt, clip_min: 0.0, clip_max: 1.0e+9}"
CRITIC = (
    "{optimiser: {lr: 1.0e-3, betas: [0.9, 0.98], weight_decay: 0.0, warmup_steps: 4}, mini_batches: 4, "
    "micro_batch_rows: 64, pretrain_steps: 2}"
)


@dataclass(frozen=True, slots=True)
class Method:
    """A method by name: what it is, and how it differs from the quickstart."""

    name: str
    what: str
    overrides: tuple[str, ...]


METHODS = {
    method.name: method
    for method in (
        Method("grpo", "GRPO: (r - mean) / std of the group", ("algorithm.adaptive=null",)),
        Method(
            "dr_grpo",
            "Dr. GRPO: r - mean, tokens averaged as in the others",
            ("algorithm.advantage=dr_grpo", "algorithm.adaptive=null"),
        ),
        Method(
            "dr_grpo_scaled",
            "Dr. GRPO over one moving standard deviation: the adaptive weighting without its clip bounds, which is "
            "sqrt((n - 1) / n) (r - mean) / sqrt(G)",
            (UNCLIPPED,),
        ),
        Method("adaptive", "GRPO with the quickstart's adaptive weights, clipped to [0.3, 3]", ()),
        Method("rloo", "RLOO: r - mean of the group's others", ("algorithm.advantage=rloo", "algorithm.adaptive=null")),
        Method(
            "ppo",
            "PPO: GAE with the critic of `configs/ppo.yaml`, the KL in the loss as in the others",
            ("algorithm.advantage=gae", "algorithm.adaptive=null", f"critic={CRITIC}", "resources.critic.count=2"),
        ),
    )
}


def command(method: Method, seed: int, steps: int, folder: Path) -> list[str]:
    """The training run: the quickstart's schedule, warm-up in proportion, nothing validated on the way."""
    where = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    return [
        *pointvg("train", "--config", str(QUICKSTART.relative_to(ROOT))),
        *(f"run.name={method.name}-{seed}", f"run.folder={where}", f"run.seed={seed}"),
        *(f"trainer.max_steps={steps}", f"learner.optimiser.warmup_steps={max(1, steps // 10)}"),
        *("validation={every: 0, before: false, after: false}", "checkpoint.every=0"),
        *method.overrides,
    ]


def run(method: Method, seed: int, steps: int, limit: int | None, folder: Path) -> dict[str, Any]:
    """Trains once and plays the test split once; what the run cost, its curve, and every task's result."""
    given, root = command(method, seed, steps, folder), folder / f"{method.name}-{seed}"
    spent = once(folder / f"{root.name}.cost.json", lambda: cpu_seconds_of(given))
    test = folder / f"{root.name}.test.json"
    played = play_apart(str(root / "export"), test, limit)
    lines = (root / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    keys = ("reward/mean", "learner/grad_norm", "learner/kl", "adaptive/weight_mean", "time/step")
    return {
        "method": method.name,
        "seed": seed,
        "command": given[1:],
        "cpu_minutes": spent / 60,
        "curve": {key: [_rounded(record.get(key)) for record in records] for key in keys},
        "test": played,
        "versions": versions(),
    }


def _rounded(number: float | None) -> float | None:
    """None in a step that only the critic learns in."""
    return None if number is None else round(number, 5)


@dataclass(frozen=True, slots=True)
class Difference:
    """Method less standard, in one metric: the mean, its errors over tasks and over seeds, each seed's own.

    >>> Difference(0.3, 0.1, 0.05, (0.25, 0.35)).resolved
    True
    """

    mean: float
    over_tasks: float
    over_seeds: float
    by_seed: tuple[float, ...]

    @property
    def error(self) -> float:
        """Both errors together: which tasks were drawn, and which seeds."""
        return float(np.hypot(self.over_tasks, self.over_seeds))

    @property
    def resolved(self) -> bool:
        """Beyond two standard errors and of one sign in every one of at least two seeds."""
        same = len({np.sign(each) for each in self.by_seed}) == 1
        return len(self.by_seed) > 1 and same and abs(self.mean) > 2 * self.error


def difference(method: Mapping[int, ByTask], other: Mapping[int, ByTask], setting: str, metric: str) -> Difference:
    """Paired by seed and task, over the seeds that both have. A task's difference is first averaged over seeds."""
    seeds = sorted(method.keys() & other.keys())
    tasks = list(other[seeds[0]][setting][metric])
    table = np.asarray(
        [[method[s][setting][metric][task] - other[s][setting][metric][task] for task in tasks] for s in seeds]
    )
    by_task, by_seed = table.mean(0), table.mean(1)
    seed_error = by_seed.std(ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else 0.0
    task_error = by_task.std(ddof=1) / np.sqrt(len(tasks))
    return Difference(float(table.mean()), float(task_error), float(seed_error), tuple(by_seed.tolist()))


def mean_of(results: Mapping[int, ByTask], setting: str, metric: str) -> float:
    """Over tasks and seeds."""
    return float(np.mean([np.mean(list(each[setting][metric].values())) for each in results.values()]))


def read(results: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Result files by method and seed, in the order of METHODS."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for file in sorted(results.glob("*-*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(record["method"], {})[record["seed"]] = record
    return {name: found[name] for name in METHODS if name in found}


def page(results: Path) -> str:
    """docs/comparison.md from the result files."""
    found = read(results)
    start: ByTask = json.loads((results / "start.json").read_text(encoding="utf-8"))
    tests = {name: {seed: run["test"] for seed, run in runs.items()} for name, runs in found.items()}
    first = next(iter(next(iter(found.values())).values()))
    steps, tasks = len(first["curve"]["reward/mean"]), len(start["validation"]["reward"])
    plan = load(TrainConfig, QUICKSTART).config.plan
    lines = [
        "# Methods compared",
        "",
        f"{steps} steps of {plan.tasks} tasks x {plan.samples} samples = {steps * plan.trajectories:,} trajectories "
        "each, from the shipped SFT model, with `configs/quickstart.yaml` but for the method; then "
        f"{tasks} test scenes. Made by `python benchmarks/methods.py`, on a CPU.",
        "",
        *(f"- **{name}**: {METHODS[name].what}." for name in found),
        "",
        "With AdamW the scale of an advantage cancels but for the gradient clip and for how it varies over steps, so "
        "`dr_grpo` and `dr_grpo_scaled` may differ by little. PPO trains a critic beside the policy, which its "
        "CPU-minutes show and its trajectories do not.",
        "",
    ]
    for setting in SETTINGS:
        lines += [*_table(setting, start, tests, found), ""]
    lines += [
        "Differences are method less `adaptive`, paired by seed and task. The first error is over tasks (each task's "
        "difference averaged over seeds), the second over seeds (of their mean differences).",
        "",
        "## What this resolves",
        "",
        "A difference is called resolved beyond two standard errors, both errors added in quadrature, and of one sign "
        "in every seed. With few seeds the error over seeds is itself uncertain, and of many comparisons one in twenty "
        "passes two standard errors by chance.",
        "",
        *_sentences(tests),
        "",
        f"![reward in training, and differences in held-out reward]({PLOT.name})",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in first["versions"].items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def _table(
    setting: str,
    start: ByTask,
    tests: Mapping[str, Mapping[int, ByTask]],
    found: Mapping[str, Mapping[int, dict[str, Any]]],
) -> list[str]:
    metrics = list(start[setting])
    heads = [f"{metric} | less {STANDARD}" for metric in metrics]
    lines = [
        f"**{setting}**",
        "",
        f"| method | seeds | {' | '.join(heads)} | CPU-minutes |",
        "|---|---|" + "---|---|" * len(metrics) + "---|",
        "| start | | " + " | ".join(f"{np.mean(list(start[setting][m].values())):.3f} | " for m in metrics) + " | |",
    ]
    for name, runs in tests.items():
        cells: list[str] = []
        for metric in metrics:
            cells.append(f"{mean_of(runs, setting, metric):.3f}")
            if name == STANDARD or not runs.keys() & tests.get(STANDARD, {}).keys():
                cells.append("")
                continue
            d = difference(runs, tests[STANDARD], setting, metric)
            cells.append(f"{d.mean:+.3f} ± {d.over_tasks:.3f} ± {d.over_seeds:.3f}")
        minutes = np.mean([run["cpu_minutes"] for run in found[name].values()])
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {minutes:.1f} |")
    return lines


def _sentences(tests: Mapping[str, Mapping[int, ByTask]]) -> list[str]:
    lines: list[str] = []
    for name, runs in tests.items():
        shared = runs.keys() & tests.get(STANDARD, {}).keys()
        if name == STANDARD or not shared:
            continue
        if len(shared) == 1:
            lines.append(f"- `{name}`: one seed, which resolves nothing about the method.")
            continue
        resolved: list[str] = []
        for setting in SETTINGS:
            for metric in tests[STANDARD][min(shared)][setting]:
                d = difference(runs, tests[STANDARD], setting, metric)
                if d.resolved:
                    word = "better" if d.mean > 0 else "worse"
                    resolved.append(f"{word} in {metric} at {setting} ({d.mean:+.3f} ± {d.error:.3f})")
        said = "; ".join(resolved) if resolved else "no difference is resolved in any column"
        lines.append(f"- `{name}`, {len(shared)} seeds, against `{STANDARD}`: {said}.")
    return lines


def draw(results: Path, file: Path) -> None:
    """Reward in training (mean over seeds, the seeds' span behind it), and held-out differences with both errors."""
    found = read(results)
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    per_step = load(TrainConfig, QUICKSTART).config.plan.trajectories
    for name, runs in found.items():
        curves = np.asarray([run["curve"]["reward/mean"] for run in runs.values()])
        x = per_step * np.arange(1, curves.shape[1] + 1)
        [line] = left.plot(x, curves.mean(0), label=name)
        left.fill_between(x, curves.min(0), curves.max(0), alpha=0.12, color=line.get_color())
    left.set(xlabel="trajectories", ylabel="reward in training")
    left.legend(frameon=False)
    tests = {name: {seed: run["test"] for seed, run in runs.items()} for name, runs in found.items()}
    others = [name for name in tests if name != STANDARD and tests[name].keys() & tests.get(STANDARD, {}).keys()]
    for offset, setting in zip((-0.2, 0.0, 0.2), SETTINGS, strict=True):
        parts = [difference(tests[name], tests[STANDARD], setting, "reward") for name in others]
        rows = np.arange(len(others)) + offset
        right.errorbar([d.mean for d in parts], rows, xerr=[2 * d.error for d in parts], fmt="o", label=setting)
    right.axvline(0, color="#777777", linewidth=1)
    right.set_yticks(range(len(others)), others)
    right.set(xlabel=f"held-out reward less {STANDARD}'s, ± 2 standard errors")
    right.legend(frameon=False)
    figure.savefig(file, dpi=120)


def report(results: Path, text: Path, plot: Path) -> None:
    """Writes the page and the plot."""
    draw(results, plot)
    write_text(text, page(results))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--steps", type=int, default=31)
    parser.add_argument("--limit", type=int, help="test tasks; for a trial")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="run nothing")
    given = parser.parse_args(arguments)
    if not given.report:
        start = str(load(TrainConfig, QUICKSTART).config.model.path)
        play_apart(start, given.results / "start.json", given.limit)
        for seed in given.seeds:  # seed by seed, so that an early stop leaves whole pairs
            for name in given.methods:
                file = given.results / f"{name}-{seed}.json"
                folder = ROOT / "runs" / "methods" / f"{given.steps}-steps"
                once(file, lambda n=name, s=seed, f=folder: run(METHODS[n], s, given.steps, given.limit, f))
                print(f"{file} is there", flush=True)
    if given.results == RESULTS:
        report(RESULTS, PAGE, PLOT)
    else:
        report(given.results, given.results / PAGE.name, given.results / PLOT.name)


if __name__ == "__main__":
    main()
