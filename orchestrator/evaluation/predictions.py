"""Scores the outputs of any model against a task file: no model, no engine, no Ray.

replies, a row each --by id or order--> tasks (ground truth, image size) --> reward and metrics --> report

The numbers come from the same code as in training, here in this process or at a running reward service.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, ValidationError

from pointing.dataset import DatasetOptions, read
from pointing.image_check import image_size
from schemas.config.service import ServiceOptions
from schemas.evaluation import EvaluationReport
from schemas.scoring import FrameSpec, ScoreItem
from schemas.task import Record, Task
from services.reward.client import RewardClient
from services.reward.custom import open_reward
from services.reward.evaluation import CONFIDENCE, evaluate
from services.reward.scoring import item_of

FrameName = Literal["pixels", "thousandths"]
SHOWN = 5


class PredictionError(ValueError):
    """Predictions cannot be used; the message names file, row and remedy."""


class PredictedReply(Record):
    """One row of a prediction file. Other columns are left aside.

    `id` is the task's ("test-0": name and row of the task file, from 0); without any, rows are in the order of the
    tasks. `frame` says how this reply writes coordinates, where that differs from the rest.

    >>> PredictedReply.model_validate({"response": "<answer>Nothing.</answer>", "id": "test-0", "model": "m"}).id
    'test-0'
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    response: str
    id: Annotated[str, Field(min_length=1)] | None = None
    frame: FrameSpec | None = None


def read_predictions(file: Path) -> tuple[PredictedReply, ...]:
    """Reads .jsonl, .json (a list) or .parquet. Raises PredictionError naming the row."""
    predictions: list[PredictedReply] = []
    for number, row in enumerate(_rows(file), start=1):
        try:
            predictions.append(PredictedReply.model_validate(row))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or "row"
            raise PredictionError(
                f"{file}: row {number}: {field}: {first['msg']}; a row is an object with a text 'response' and "
                "optionally 'id' and 'frame'"
            ) from None
    if not predictions:
        raise PredictionError(f"{file}: holds no prediction")
    return tuple(predictions)


def _rows(file: Path) -> Sequence[object]:
    if not file.is_file():
        raise PredictionError(f"{file}: no such file; check --predictions")
    if file.suffix == ".parquet":
        try:
            return pq.read_table(file).to_pylist()
        except pa.ArrowException as error:
            raise PredictionError(f"{file}: cannot be read as Parquet ({error})") from error
    if file.suffix not in (".jsonl", ".json"):
        raise PredictionError(
            f"{file}: {file.suffix or 'no suffix'} is not one of .jsonl, .json, .parquet; give one with a reply a row"
        )
    lines = file.read_bytes().splitlines() if file.suffix == ".jsonl" else [file.read_bytes()]
    rows: list[object] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(json.loads(line.decode("utf-8-sig")))
            except (ValueError, RecursionError) as error:
                raise PredictionError(f"{file}:{number}: not JSON ({error})") from error
    if file.suffix == ".jsonl":
        return rows
    if not rows or not isinstance(rows[0], list):
        raise PredictionError(f"{file}: expected a list of objects; one object a line goes into a .jsonl file")
    return cast("list[object]", rows[0])


def pair(predictions: Sequence[PredictedReply], tasks: Sequence[Task]) -> list[tuple[PredictedReply, Task]]:
    """Each task with its one prediction, in the order of the tasks. Raises PredictionError naming what is left over."""
    if all(one.id is None for one in predictions):
        if len(predictions) != len(tasks):
            raise PredictionError(
                f"{len(predictions)} predictions for {len(tasks)} tasks: without an 'id' in each row, there must be a "
                'row for every task, in order; write "response": "" where the model gave nothing'
            )
        return list(zip(predictions, tasks, strict=True))
    by_id: dict[str | None, PredictedReply] = {one.id: one for one in predictions}
    if len(by_id) != len(predictions) or None in by_id:
        counts = Counter(one.id for one in predictions)
        twice = sorted(str(name) for name, count in counts.items() if name is None or count > 1)[:SHOWN]
        raise PredictionError(f"ids must be given in all rows or in none, and once each; see {', '.join(twice)}")
    known = {task.task_id for task in tasks}
    missing = [task.task_id for task in tasks if task.task_id not in by_id]
    unknown = [str(one.id) for one in predictions if one.id not in known]
    if missing or unknown:
        raise PredictionError(
            f"{len(missing)} tasks without a prediction ({', '.join(missing[:SHOWN])}), {len(unknown)} predictions "
            f"without a task ({', '.join(unknown[:SHOWN])}); task ids are like {tasks[0].task_id!r}"
        )
    return [(by_id[task.task_id], task) for task in tasks]


def to_items(pairs: Sequence[tuple[PredictedReply, Task]], frame: FrameName = "pixels") -> tuple[ScoreItem, ...]:
    """What is scored. `frame`: "pixels" of the original image or "thousandths" of it, where a row has no other.

    The size of an image is read from its file, so that targets can be told apart by size.
    """
    sizes: dict[str, FrameSpec] = {}
    for _, task in pairs:
        image = task.images[0]
        if image not in sizes:
            size = image_size(Path(image))
            sizes[image] = FrameSpec(kind=frame, original_size=(size.width, size.height))
    return tuple(
        ScoreItem(
            id=task.task_id,
            response=said.response,
            ground_truth=_truth(task),
            frame=said.frame or sizes[task.images[0]],
        )
        for said, task in pairs
    )


def _truth(task: Task) -> dict[str, Any] | None:
    known = task.ground_truth
    return None if known.negative else known.model_dump(mode="json", exclude_none=True)


def score_predictions(
    predictions: Path,
    data: Path,
    *,
    reward: ServiceOptions | None = None,
    frame: FrameName = "pixels",
    image_dir: str | None = None,
    confidence: float = CONFIDENCE,
) -> EvaluationReport:
    """Scores a prediction file in this process. `reward` None: the published rules.

    Raises PredictionError, or DatasetError for the task file.
    """
    items = read_items(predictions, data, frame, image_dir)
    scorer = open_reward(reward or ServiceOptions())
    try:
        return evaluate([item_of(item) for item in items], scorer, confidence)
    finally:
        scorer.close()


def score_remotely(
    predictions: Path,
    data: Path,
    endpoint: str,
    *,
    token_env: str | None = None,
    frame: FrameName = "pixels",
    image_dir: str | None = None,
    confidence: float = CONFIDENCE,
) -> EvaluationReport:
    """Has a reward service score a prediction file by its own rules. `token_env` names the variable with its token.

    Raises as `score_predictions` does, and RewardServiceError.
    """
    token = None if token_env is None else os.environ.get(token_env)
    if token_env is not None and not token:
        raise PredictionError(f"--token-env {token_env}: this environment variable is not set; export the token in it")
    with RewardClient(endpoint, token) as client:
        return client.evaluate(read_items(predictions, data, frame, image_dir), confidence)


def read_items(
    predictions: Path, data: Path, frame: FrameName = "pixels", image_dir: str | None = None
) -> tuple[ScoreItem, ...]:
    """Predictions and tasks, joined."""
    said = read_predictions(predictions)
    with tempfile.TemporaryDirectory() as unpack_dir:  # no more than their sizes is wanted of images
        tasks = read(DatasetOptions(files=(str(data),), image_dir=image_dir, unpack_dir=unpack_dir)).tasks
        return to_items(pair(said, tasks), frame)
