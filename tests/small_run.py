"""The one small run that tests start from: settings of a stage-2 run of seconds a step, and a table of rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import batch

SHIPPED = Path(__file__).resolve().parents[1] / "models" / "tiny"
Settings = dict[str, Any]


def scene_data(scenes: Path, **more: Any) -> Settings:
    """The data section for scenes of one size, 112 pixels a side."""
    files = {"train_files": str(scenes / "train.jsonl")}
    return files | {"prompt_style": "short", "min_pixels": 12544, "max_pixels": 12544} | more


def small_run(
    scenes: Path, folder: Path, *, model: str | Path = SHIPPED, **sections: Mapping[str, Any] | None
) -> Settings:
    """Two steps of 4 tasks with 4 samples, without validation or checkpoints; `sections` are laid over, key by key."""
    base: dict[str, Settings] = {
        "run": {"folder": str(folder)},
        "model": {"path": str(model)},
        "data": scene_data(scenes),
        "rollout": {
            "tasks_per_step": 4,
            "samples_per_task": 4,
            "max_tokens_per_turn": 40,
            "engine": {"max_model_len": 256},
        },
        "learner": {"optimiser": {"lr": 1e-4}},
        "validation": {"before": False, "after": False},
        "checkpoint": {"every": 0, "keep_best": False},
        "resources": {"object_store_bytes": 2**28},
        "trainer": {"max_steps": 2, "samples_to_log": 0},
    }
    over = {name: None if given is None else base.get(name, {}) | dict(given) for name, given in sections.items()}
    return base | over


def rollout_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A ROLLOUT table: of each row what is given, and for the rest one turn without images of a negative task.

    `trajectory_id` and `group_id` must be there; the mask, the lengths and the log-probabilities follow `token_ids`.
    """
    return pa.Table.from_pylist([_row(row) for row in rows], schema=batch.ROLLOUT)


def _row(given: Mapping[str, Any]) -> Settings:
    ids = given.get("token_ids", [7, 8, 9, 10])
    mask = given.get("mask", [0, *[1] * (len(ids) - 1)])
    lengths = given.get("turn_lengths", [sum(mask)])
    return {
        "task_id": given["group_id"],
        "sample": 0,
        "kind": "sample",
        "token_ids": ids,
        "mask": mask,
        "behaviour_logprobs": [0.0] * len(ids),
        "image_digests": [],
        "image_grids": [],
        "turn_texts": ["x"] * len(lengths),
        "turn_lengths": lengths,
        "turn_versions": [0] * len(lengths),
        "ended_by": "answer",
        "reply": "x",
        "ground_truth": "none",
        "frame": "pixels",
        "original_size": [448, 448],
        "seen_size": [112, 112],
        **given,
    }
