"""Groups that are kept of a step: whole ones, chosen by seed and step alone, and bounded in number."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.batch.kept_groups import COLUMNS, IMAGE, MOST_STEPS, KeptGroups, chosen_rows, is_kept
from orchestrator.batch.progress import Position, Progress
from orchestrator.run_folder.folder import RunFolder
from orchestrator.run_folder.set_aside import set_aside
from schemas import batch
from schemas.config import TrainConfig
from schemas.scoring import SCORE_TERMS
from schemas.task import NEGATIVE, Task
from tests.small_run import rollout_table

TASKS = tuple(Task(task_id=f"t{n}", prompt="?", images=(f"{n}.png",), ground_truth=NEGATIVE) for n in range(4))


def scored(order: list[tuple[str, int]]) -> pa.Table:
    """A batch of (task, sample), in this order."""
    rows = [
        {
            "trajectory_id": f"{task}/{sample}",
            "group_id": task,
            "sample": sample,
            "image_digests": [f"of {task}"],
        }
        for task, sample in order
    ]
    scores = [{"trajectory_id": row["trajectory_id"], "reward": 1.0, **dict.fromkeys(SCORE_TERMS)} for row in rows]
    return batch.join(rollout_table(rows), pa.Table.from_pylist(scores, schema=batch.SCORES), "test")


BATCH = [(task.task_id, sample) for task in TASKS for sample in range(3)]


def config(**trainer: int) -> TrainConfig:
    values = {"model": {"path": "m"}, "data": {"train_files": "a.jsonl"}, "trainer": {"max_steps": 3, **trainer}}
    return TrainConfig.model_validate(values)


def kept(folder: Path, table: pa.Table, step: int = 0, **trainer: int) -> list[dict[str, object]]:
    settings = config(**trainer)
    KeptGroups(RunFolder(folder), settings).write(step, table, Progress(settings, TASKS, Position()))
    file = RunFolder(folder).rollouts(step + 1)
    return pq.read_table(file).to_pylist() if file.is_file() else []


def test_whole_groups_are_kept_with_what_was_said_and_earned(tmp_path: Path) -> None:
    rows = kept(tmp_path, scored(BATCH), groups_to_log=2)
    assert len(rows) == 6
    tasks = [row["task_id"] for row in rows]
    assert tasks == sorted(tasks)
    assert len(set(tasks)) == 2
    assert [row["sample"] for row in rows] == [0, 1, 2] * 2
    first = rows[0]
    assert list(first) == [*COLUMNS, IMAGE]
    assert (first["turn_texts"], first["reward"]) == (["x"], 1.0)
    assert first["image_digests"] == [f"of {first['task_id']}"]
    assert first[IMAGE] == f"{str(first['task_id'])[1:]}.png"
    assert "token_ids" not in first


@given(st.permutations(BATCH), st.integers(0, 9), st.integers(0, 99), st.integers(1, 6))
def test_the_order_of_arrival_changes_nothing(order: list[tuple[str, int]], seed: int, step: int, count: int) -> None:
    there, here = scored(order), scored(BATCH)
    names = [
        [table.column("trajectory_id")[row].as_py() for row in chosen_rows(table, seed, step, count)]
        for table in (there, here)
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 3 * min(count, 4)


def test_another_step_or_seed_chooses_others() -> None:
    table = scored(BATCH)
    assert len({tuple(chosen_rows(table, 1, step, 1)) for step in range(40)}) == 4
    assert len({tuple(chosen_rows(table, seed, 0, 1)) for seed in range(40)}) == 4
    state = random.getstate()
    chosen_rows(table, 1, 0, 1)
    assert random.getstate() == state, "nobody else's numbers move"


@pytest.mark.parametrize("total", [1, 2, 199, 200, 201, 1000, 99_999])
def test_a_run_keeps_the_first_and_the_last_step_and_not_too_many(total: int) -> None:
    steps = [step for step in range(total) if is_kept(step, total)]
    assert steps[0] == 0
    assert steps[-1] == total - 1
    assert len(steps) <= MOST_STEPS
    assert len(steps) >= min(total, MOST_STEPS // 2)


def test_none_are_kept_where_none_are_wanted(tmp_path: Path) -> None:
    assert kept(tmp_path, scored(BATCH), groups_to_log=0) == []
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_keeps_every_step_once(tmp_path: Path) -> None:
    """Three steps were played; the run goes on from the checkpoint after one of them."""
    first = [kept(tmp_path, scored(BATCH), step=step) for step in range(3)]
    set_aside(tmp_path, 1)
    assert [file.name for file in (tmp_path / "rollouts").iterdir()] == ["step-000001.parquet"]
    again = [kept(tmp_path, scored(BATCH), step=step) for step in (1, 2)]
    assert again == first[1:]
    names = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.parquet"))
    assert names == [
        "aside.1/rollouts/step-000002.parquet",
        "aside.1/rollouts/step-000003.parquet",
        "rollouts/step-000001.parquet",
        "rollouts/step-000002.parquet",
        "rollouts/step-000003.parquet",
    ]
