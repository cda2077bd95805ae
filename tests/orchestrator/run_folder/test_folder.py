"""The run folder: settings are compared by name, and checkpoints go only when newer ones are complete."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.run_folder.folder import RunExistsError, RunFolder, critic_of, open_run, prune, versions
from policy.state.checkpoint import COMPLETE
from schemas.config import TrainConfig


def config(folder: Path, **other: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "run": {"name": "r", "folder": str(folder)},
        "model": {"path": "m"},
        "data": {"train_files": "a"},
        "trainer": {"max_steps": 5},
    }
    return TrainConfig.model_validate(values | other)


def checkpoint(folder: RunFolder, step: int, complete: bool = True) -> None:
    path = folder.checkpoint(step)
    path.mkdir(parents=True)
    if complete:
        (path / COMPLETE).write_text("{}")


def opened(of: TrainConfig) -> RunFolder:
    return open_run(of.run, of)


def test_only_complete_checkpoints_count_in_order_of_their_numbers(tmp_path: Path) -> None:
    folder = opened(config(tmp_path))
    for step in (1000000, 20, 3):
        checkpoint(folder, step)
    checkpoint(folder, 40, complete=False)
    (folder.checkpoints / "step-000007.partial").mkdir()
    assert folder.steps() == [3, 20, 1000000]


def test_pruning_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    folder = opened(config(tmp_path))
    for step in (1, 2, 3, 4):
        checkpoint(folder, step)
    prune(folder, keep=1, best=2)
    assert folder.steps() == [2, 4]


def test_a_critic_s_checkpoint_goes_with_the_policy_s_and_never_before_it(tmp_path: Path) -> None:
    folder = opened(config(tmp_path))
    for step in (1, 2, 3):
        checkpoint(folder, step)
        critic_of(folder.checkpoint(step)).mkdir()
    assert folder.steps() == [1, 2, 3]
    prune(folder, keep=1, best=1)
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == [
        "step-000001",
        "step-000001.critic",
        "step-000003",
        "step-000003.critic",
    ]


def test_a_longer_run_continues_and_another_method_is_refused(tmp_path: Path) -> None:
    folder = opened(config(tmp_path))
    checkpoint(folder, 1)
    opened(config(tmp_path, trainer={"max_steps": 9}))
    with pytest.raises(RunExistsError, match=r"rollout\.samples_per_task was 8 and is 4"):
        opened(config(tmp_path, rollout={"samples_per_task": 4}))


def test_without_a_checkpoint_a_folder_may_be_started_again(tmp_path: Path) -> None:
    opened(config(tmp_path))
    again = opened(config(tmp_path, rollout={"samples_per_task": 4}))
    assert "samples_per_task: 4" in (again.root / "config.yaml").read_text()


def test_resume_false_refuses_an_existing_folder(tmp_path: Path) -> None:
    opened(config(tmp_path))
    with pytest.raises(RunExistsError, match=r"run\.resume=false"):
        opened(config(tmp_path, run={"name": "r", "folder": str(tmp_path), "resume": False}))


def test_versions_name_what_shapes_results() -> None:
    assert {"python", "torch", "ray", "transformers", "pyarrow"} <= versions().keys()


def test_a_critics_part_goes_with_the_policys_and_not_before_its_own_is_complete(tmp_path: Path) -> None:
    folder = opened(config(tmp_path))
    for step in (1, 2):
        checkpoint(folder, step)
    for step in (1, 2, 3):  # the policy's part of step 3 is being written
        critic_of(folder.checkpoint(step)).mkdir()
    prune(folder, keep=1, best=None)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        "step-000002",
        "step-000002.critic",
        "step-000003.critic",
    ]
