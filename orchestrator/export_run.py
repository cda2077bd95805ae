"""The model of a checkpoint, written as a run writes its own at the end."""

from __future__ import annotations

import json
from pathlib import Path

from files.owned import refuse_folder, writing_folder
from orchestrator.evaluation.evaluation_table import HEADLINES
from orchestrator.run_folder.folder import RunFolder, run_folder
from policy.learning.learner import PolicyLearner
from policy.state.checkpoint import read_extra
from policy.state.model_card import Card
from policy.state.release import Lengths, release
from schemas.config import SftConfig, TrainConfig

SFT_LENGTHS = Lengths(max_turns=2, max_new_tokens=512)  # stage 1 bounds no reply


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
    with writing_folder(out, "pointvg export", overwrite=overwrite) as fresh:
        learner.export(str(fresh))
        complete(fresh, config, folder, chosen)
    return out


def complete(export: Path, config: TrainConfig | SftConfig, folder: RunFolder, step: int) -> None:
    """Adds to the exported model of a step what it needs to be used by itself; see policy/state/release.py."""
    lengths = SFT_LENGTHS
    if isinstance(config, TrainConfig):
        lengths = Lengths(config.rollout.max_turns, config.rollout.max_tokens_per_turn)
    measured = _validations(folder.metrics)
    before = measured.get(0, {}) if step else {}
    card = Card(config.model.path, _method(config, step), before, measured.get(step, {}))
    release(export, config.data, lengths, card)


def _method(config: TrainConfig | SftConfig, step: int) -> str:
    if isinstance(config, SftConfig):
        rows = min(step * config.trainer.batch_rows, config.trainer.samples)
        return f"supervised fine-tuning on {rows} transcripts, {step} steps"
    weighted = " with adaptive weights" if config.algorithm.adaptive is not None else ""
    tasks, samples = config.rollout.tasks_per_step, config.rollout.samples_per_task
    return f"{config.algorithm.advantage}{weighted}, {step} steps of {tasks} tasks with {samples} samples each"


def _validations(metrics: Path) -> dict[int, dict[str, float]]:
    """Of each step that was validated the numbers that a person looks at first, by their names."""
    if not metrics.is_file():
        return {}
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return {
        record["step"]: {name: value for key, name in HEADLINES if (value := record.get(f"sampled/{key}")) is not None}
        for record in records
        if record["kind"] == "validation"
    }
