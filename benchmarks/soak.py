"""Does a long run grow: memory and open files of every process over many small steps, and what is left after its end.

    python benchmarks/soak.py [--steps 500] [--every 10] [OVERRIDES ...]

Trains a small model of random weights (2 tasks x 2 samples a step, every role, a checkpoint each 50 steps) in a process
of its own and looks at that process and all it has started, every few steps, by role: USS (memory that ends with the
process), PSS (with its share of what several hold) and open files. Prints the growth per step over the later four
fifths, a least-squares slope with its error, and what of processes, shared memory and files is there when all is over.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from orchestrator.run_folder.folder import versions
from pointing.scenes import write_scenes
from policy.tiny.model import build_tiny

ROOT = Path(__file__).resolve().parent.parent
SHM = "/dev/shm/"
WARM_UP = 0.2  # of the steps: caches fill, allocators settle
ENDS_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One process after `step` steps; bytes.

    >>> Sample(10, "learner", 7, 3, 4, 20).role
    'learner'
    """

    step: int
    role: str
    pid: int
    uss: int
    pss: int
    files: int


@dataclass(frozen=True, slots=True)
class Growth:
    """What a number grows by per step, the error of that, and how much it grew in all.

    >>> Growth(0.5, 0.1, 200.0).per_step
    0.5
    """

    per_step: float
    error: float
    total: float


def growth(steps: Sequence[float], values: Sequence[float]) -> Growth:
    """The least-squares slope and its standard error, errors taken as independent; needs three points."""
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    left = y - y.mean() - slope * x
    error = float(np.sqrt(left @ left / (len(x) - 2) / (x @ x)))
    return Growth(slope, error, float(values[-1] - values[0]))


def role_of(process: psutil.Process) -> str:
    """What a process is for: the actor's class, or the program."""
    words = process.cmdline() or [process.name()]
    if words[0].startswith("ray::"):
        return words[0].removeprefix("ray::").split(".")[0].split(":")[0]
    if "-m" in words:
        return words[words.index("-m") + 1]
    name = next((word for word in words if word.endswith(".py")), words[0])
    return Path(name).stem


def look(step: int, root: psutil.Process) -> list[Sample]:
    """A sample of every process of the tree; those that end meanwhile are left out."""
    found: list[Sample] = []
    for process in (root, *root.children(recursive=True)):
        try:
            memory = process.memory_full_info()
            found.append(Sample(step, role_of(process), process.pid, memory.uss, memory.pss, process.num_fds()))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def shared(processes: Iterable[psutil.Process]) -> set[str]:
    """Names in shared memory that the processes map or have open."""
    names: set[str] = set()
    for process in processes:
        try:
            names |= {each.path for each in process.memory_maps() if each.path.startswith(SHM)}
            names |= {each.path for each in process.open_files() if each.path.startswith(SHM)}
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return names


def done(metrics: Path) -> int:
    """Steps that the run has logged."""
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


def configured(folder: Path, steps: int) -> Path:
    """Writes model, scenes and configuration of the run."""
    write_scenes(folder / "scenes", train=24, validation=1, test=1, seed=5)
    values: dict[str, Any] = {
        "run": {"folder": str(folder), "name": "soak"},
        "model": {"path": str(build_tiny(folder / "model", seed=0))},
        "data": {
            "train_files": str(folder / "scenes" / "train.jsonl"),
            "prompt_style": "short",
            "min_pixels": 12544,
            "max_pixels": 12544,
        },
        "rollout": {
            "tasks_per_step": 2,
            "samples_per_task": 2,
            "max_tokens_per_turn": 16,
            "engine": {"max_model_len": 160},
        },
        "algorithm": {"adaptive": {}},
        "validation": {"before": False, "after": False},
        "checkpoint": {"every": 50, "keep": 1},
        "resources": {"object_store_bytes": 2**28},
        "trainer": {"max_steps": steps},
    }
    file = folder / "soak.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    return file


def soak(steps: int, every: int, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Runs, samples, and looks at what is left."""
    command = [sys.executable, "-m", "orchestrator", "train", "--config", str(configured(folder, steps)), *overrides]
    metrics = folder / "soak" / "metrics.jsonl"
    samples: list[Sample] = []
    seen: dict[int, psutil.Process] = {}
    names: set[str] = set()
    temporary = folder / "t"  # Ray's own folder, where its log stays, is elsewhere
    temporary.mkdir()
    environment = {"RAY_TMPDIR": tempfile.gettempdir()} | os.environ | {"TMPDIR": str(temporary)}
    with (folder / "output").open("wb") as output:
        run = psutil.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            due = every
            while run.poll() is None:
                step = done(metrics)
                if step >= due:
                    tree = [run, *run.children(recursive=True)]
                    seen |= {process.pid: process for process in tree}
                    names |= shared(tree)
                    samples += look(step, run)
                    due = step - step % every + every
                time.sleep(0.2)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):  # the usual end
                run.kill()
    if run.returncode:
        sys.exit(f"the run ended with {run.returncode}:\n{(folder / 'output').read_text(encoding='utf-8')[-3000:]}")
    _, alive = psutil.wait_procs(list(seen.values()), timeout=ENDS_WITHIN_S)
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return {
        "steps": steps,
        "step_s": float(np.median([record["time/step"] for record in records])),
        "roles": {role: grown(samples, role, steps) for role in sorted({s.role for s in samples})},
        "left": {
            "processes": [role_of(process) for process in alive],
            "shared_memory": sorted(name for name in names if Path(name).exists()),
            "temporary_files": sorted(str(p.relative_to(temporary)) for p in temporary.rglob("*") if p.is_file()),
            "partial_files": sorted(str(p.relative_to(folder)) for p in folder.rglob("*.partial")),
        },
        "samples": [asdict(sample) for sample in samples],
        "versions": versions(),
    }


def grown(samples: Sequence[Sample], role: str, steps: int) -> dict[str, Any] | None:
    """Growth of a role's processes together; None of one that was there too seldom to say."""
    late = [sample for sample in samples if sample.role == role and sample.step > WARM_UP * steps]
    at = sorted({sample.step for sample in late})
    if len(at) < 3:
        return None
    sums = {
        name: [float(sum(getattr(s, name) for s in late if s.step == step)) for step in at]
        for name in ("uss", "pss", "files")
    }
    last = [sample for sample in late if sample.step == at[-1]]
    return {
        "processes": len(last),
        **{name: asdict(growth(at, values)) for name, values in sums.items()},
        "last": {name: values[-1] for name, values in sums.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--every", type=int, default=10, help="steps between samples")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "soak.json")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(given.steps, given.every, given.overrides, Path(folder))
    print(
        f"{found['steps']} steps, {found['step_s']:.2f} s median\nrole, processes, MiB (USS), KiB a step, files a step"
    )
    for role, grew in found["roles"].items():
        if grew is not None:
            memory, files = grew["uss"], grew["files"]
            print(
                f"  {role:20} {grew['processes']:3d} {grew['last']['uss'] / 2**20:8.1f} "
                f"{memory['per_step'] / 1024:8.2f} +- {memory['error'] / 1024:.2f} "
                f"{files['per_step']:8.4f} +- {files['error']:.4f}"
            )
    print(f"left: {found['left']}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
