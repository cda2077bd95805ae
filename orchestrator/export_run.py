"""The model of a checkpoint, written as a run writes its own at the end."""

from __future__ import annotations

from pathlib import Path

from files.owned import refuse_folder
from orchestrator.run_folder.folder import run_folder
from policy.learning.learner import PolicyLearner
from policy.state.checkpoint import read_extra
from schemas.config import SftConfig, TrainConfig


def run_export(config: TrainConfig | SftConfig, out: Path, step: int | None, *, overwrite: bool = False) -> Path:
    """Writes a checkpoint of the run as a Hugging Face folder: `step`, else the best step, else the last.

    Raises FileNotFoundError naming the steps there are, and ExistsError where `out` holds what would be replaced.
    """
    refuse_folder(out, overwrite=overwrite)
    folder = run_folder(config.run)
    steps = folder.steps()
    if not steps:
        raise FileNotFoundError(f"{folder.checkpoints} holds no complete checkpoint")
    best = read_extra(folder.checkpoint(steps[-1])).get("best_step")  # none in stage 1
    chosen = step if step is not None else best if best in steps else steps[-1]
    if chosen not in steps:
        raise FileNotFoundError(f"no checkpoint of step {chosen} in {folder.checkpoints}; there are {steps}")
    learner = PolicyLearner(config.model, config.learner, None, total_steps=1, temperature=1.0)
    learner.load(str(folder.checkpoint(chosen)))
    learner.export(str(out))
    return out
