"""A run folder as the project's own writers leave it, in a second: what is learnt is made up, and known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.batch.kept_groups import KeptGroups
from orchestrator.batch.progress import Position, Progress
from orchestrator.batch.tasks import read_split
from orchestrator.evaluation.evaluate import Evaluation, numbers_of, write_samples
from orchestrator.run_folder.folder import RunFolder, open_run
from orchestrator.telemetry.metrics import MetricsLog
from pointing.coordinates import Frame, Size
from pointing.rewards import score
from pointing.scenes import write_scenes
from schemas import batch
from schemas.config import TrainConfig
from schemas.scoring import SCORE_TERMS
from schemas.task import Task
from tests.small_run import rollout_table, small_run

SIDE = 448  # pixels of a scene, which the model of these runs sees as it is
FRAME = Frame("pixels", Size(SIDE, SIDE), Size(SIDE, SIDE))
NOTHING = "<answer>Nothing is pointed at.</answer>"
STAGES = {"rollout": 3.0, "update": 2.0, "publish": 0.75, "other": 0.25}


def answer(task: Task, off: int = 0, name: str | None = None) -> tuple[str, ...]:
    """The turns of a reply: the truth in whole pixels, its target moved `off` pixels to the right."""
    truth = task.ground_truth
    if truth.negative or truth.hand_bbox is None or truth.obj_bbox is None or truth.pointing_ray is None:
        return (NOTHING,)
    assert truth.pointing_keypoints is not None
    hand, target = [round(v) for v in truth.hand_bbox], [round(v) for v in truth.obj_bbox]
    points = [[round(v) for v in point] for point in truth.pointing_keypoints]
    start, end = ([round(v) for v in point] for point in (truth.pointing_ray.start, truth.pointing_ray.end))
    target = [target[0] + off, target[1], target[2] + off, target[3]]
    call = json.dumps({"name": "draw_ray", "start": start, "end": end, "color": "red"})
    return (
        f"<think>The hand is at <|box_start|>{hand}<|box_end|>, the finger runs from <|point_start|>{points[0]}"
        f"<|point_end|> to <|point_start|>{points[1]}<|point_end|>.</think>\n<tool_call>{call}</tool_call>",
        f"<answer>It is <|caption_start|>{name or truth.obj_name}<|caption_end|> "
        f"<|box_start|>{target}<|box_end|></answer>",
    )


def trajectories(said: Sequence[tuple[Task, tuple[str, ...], str]]) -> pa.Table:
    """ROLLOUT and SCORES columns of (task, turns, kind), scored by the published rules with negatives up to 10."""
    rules = TrainConfig.model_fields["reward"].get_default().rules
    rows: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    drawn: Counter[tuple[str, str]] = Counter()
    for number, (task, turns, kind) in enumerate(said):
        reply, truth = "\n".join(turns), task.ground_truth
        rows.append(
            {
                "trajectory_id": f"{number}",
                "group_id": task.task_id,
                "kind": kind,
                "sample": drawn[task.task_id, kind],
                "turn_texts": list(turns),
                "turn_lengths": [1] * len(turns),
                "turn_versions": [0] * len(turns),
                "token_ids": [7, *[8] * len(turns)],
                "reply": reply,
                "ground_truth": "none" if truth.negative else truth.model_dump_json(exclude_none=True),
                "original_size": [SIDE, SIDE],
                "seen_size": [SIDE, SIDE],
            }
        )
        drawn[task.task_id, kind] += 1
        found = score(reply, truth, FRAME, rules)
        terms: Mapping[str, float] = found.terms()
        scores.append({"trajectory_id": f"{number}", "reward": found.reward, **{t: terms.get(t) for t in SCORE_TERMS}})
    return batch.join(rollout_table(rows), pa.Table.from_pylist(scores, schema=batch.SCORES), "made")


def evaluation(tasks: Sequence[Task], off: int) -> Evaluation:
    """Two draws and a greedy reply of each task; targets are `off` pixels off."""
    by_id = {task.task_id: task for task in tasks}
    drawn = trajectories([(task, answer(task, off + n), "sample") for task in tasks for n in (0, 1)])
    greedy = trajectories([(task, answer(task, off), "greedy") for task in tasks])
    numbers = {f"sampled/{key}": value for key, value in numbers_of(drawn, by_id).items()}
    numbers |= {f"greedy/{key}": value for key, value in numbers_of(greedy, by_id).items()}
    return Evaluation(numbers, pa.concat_tables([drawn, greedy]), by_id)


def made_run(
    folder: Path,
    name: str = "made",
    *,
    offs: Sequence[int] = (30, 10, 0),
    steps: int = 4,
    tasks: int = 6,
    seed: int = 5,
    **sections: Any,
) -> tuple[RunFolder, TrainConfig]:
    """A run of `steps` steps, with a validation for each of `offs`, evenly over them; and its configuration.

    The scenes lie in `folder`/scenes, made the first time with this `seed`; `tasks` of them are validated on.
    """
    scenes = folder / "scenes"
    if not scenes.exists():
        write_scenes(scenes, train=4, validation=6, test=0, seed=seed)
    values = small_run(
        scenes,
        folder,
        run={"name": name},
        data={"validation_files": str(scenes / "validation.jsonl"), "max_pixels": SIDE * SIDE},
        trainer={"max_steps": max(1, steps)},
    )
    config = TrainConfig.model_validate(values | sections)
    root, held_out = open_run(config.run, config), read_split(config, "validation")[:tasks]
    log, kept = MetricsLog(root.root, 0), KeptGroups(root, config)
    training = read_split(config, "train")
    played = trajectories([(task, answer(task, off), "sample") for task in training for off in (0, 20, 200)])
    due = {round(place * steps / max(1, len(offs) - 1)): off for place, off in enumerate(offs)}
    for step in range(steps + 1):
        if step in due:
            result = evaluation(held_out, due[step])
            write_samples(root.root, step, result, pictures=0)
            log.write("validation", step, result.numbers)
        if step < steps:
            times = {f"time/{stage}": seconds for stage, seconds in STAGES.items()} | {"time/step": 6.0}
            numbers = {"reward/mean": 7.0 + step, "learner/kl": None, "reply/trained_tokens": 50.0}
            kept.write(step, played, Progress(config, training, Position()))
            log.write("train", step, numbers | times)
    log.close()
    return root, config
