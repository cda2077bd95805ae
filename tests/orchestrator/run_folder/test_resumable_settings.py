"""Which settings may change when a run continues."""

from typing import Any

import pytest

from orchestrator.run_folder.resumable_settings import compare, digest
from schemas.config import TrainConfig


def config(**other: Any) -> TrainConfig:
    values: dict[str, Any] = {"model": {"path": "m"}, "data": {"train_files": "a"}, "trainer": {"max_steps": 5}}
    return TrainConfig.model_validate(values | other)


PPO: dict[str, Any] = {"algorithm": {"advantage": "gae"}, "critic": {}}
GPUS = {"learner": {"gpus": 1.0}, "critic": {"gpus": 1.0}}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("free", {"run": {"name": "other", "folder": "elsewhere"}}),
    ("free", {"trainer": {"max_steps": 9}}),
    ("free", {"checkpoint": {"every": 3, "on_error": "continue"}}),
    ("free", {"validation": {"every": 3}}),
    ("named", {"resources": {"learner": {"count": 2}}}),
    ("named", {"learner": {"micro_batch_rows": 4}}),
    ("named", {"learner": {"micro_batch_tokens": 9000}}),
    ("named", {"learner": {"layout": "packed"}}),
    ("named", {"learner": {"sharding": {"ranks": 1}}}),
    (
        "named",
        {"resources": {"learner": GPUS["learner"]}, "learner": {"sharding": {"cpu_offload": True}, "compile": True}},
    ),
    ("named", {**PPO, "critic": {"micro_batch_tokens": 9000, "layout": "packed"}}),
    ("named", {**PPO, "resources": GPUS, "critic": {"sharding": {"cpu_offload": True}, "compile": True}}),
    ("named", {"model": {"path": "m", "gradient_checkpointing": True}}),
    ("named", {"rollout": {"engine": {"max_num_seqs": 8}}}),
    ("refused", {"run": {"seed": 2}}),
    ("refused", {"model": {"path": "m", "chat_template": "own.jinja"}}),
    ("refused", {"rollout": {"samples_per_task": 4}}),
    ("refused", {"learner": {"optimiser": {"lr": 1.0}}}),
    ("refused", {"learner": {"optimiser": {"state_dtype": "bfloat16"}}}),
    ("refused", {"learner": {"mini_batches": 2}}),
    ("refused", {**PPO, "critic": {"value_clip": 1.0}}),
    ("refused", {"algorithm": {"adaptive": {}}}),
    ("refused", {"reward": {"rules": {"negative_max": 1.0}}}),
]


@pytest.mark.parametrize(("kind", "other"), KINDS)
def test_a_change_is_free_named_or_refused(kind: str, other: dict[str, Any]) -> None:
    old, new = config(**(PPO if "critic" in other else {})), config(**other)
    changes = compare(old.model_dump(mode="json"), new)
    assert bool(changes.refused) == (kind == "refused")
    assert bool(changes.named) == (kind == "named")
    assert (digest(old) == digest(new)) == (kind != "refused")


def test_changes_say_what_was_and_what_is() -> None:
    changes = compare(config().model_dump(mode="json"), config(rollout={"samples_per_task": 4, "tasks_per_step": 2}))
    assert [str(change) for change in changes.refused] == [
        "rollout.tasks_per_step was 32 and is 2",
        "rollout.samples_per_task was 8 and is 4",
    ]


def test_a_run_that_must_repeat_exactly_keeps_its_number_of_processes() -> None:
    old = config(run={"deterministic": True})
    new = config(run={"deterministic": True}, resources={"learner": {"count": 2}})
    assert [c.field for c in compare(old.model_dump(mode="json"), new).refused] == ["resources.learner.count"]
