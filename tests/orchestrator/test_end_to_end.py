"""The whole loop with nothing stood in for: vLLM, Ray Serve, FSDP2 on two ranks, the reference, Arrow; then resume."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from safetensors.torch import load_file

from files.owned import ExistsError
from orchestrator.export_run import run_export
from orchestrator.run_folder.folder import RunExistsError
from orchestrator.train_run import RunResult, run_training
from policy.conversation.model_info import read_info
from schemas.config import TrainConfig
from tests.small_run import small_run

pytestmark = pytest.mark.cluster


def configured(model: str, scenes: Path, folder: Path, steps: int, **other: Any) -> TrainConfig:
    values = small_run(
        scenes,
        folder,
        model=model,
        run={"name": "e2e"},
        data={"validation_files": str(scenes / "validation.jsonl")},
        rollout={"max_tokens_per_turn": 32, "engine": {"max_model_len": 192}},
        algorithm={"adaptive": {}, "kl": {"coefficient": 0.05}},
        learner={"optimiser": {"lr": 1e-3, "schedule": "cosine", "min_ratio": 0.5}, "micro_batch_rows": 3},
        validation={"before": True, "after": True, "samples": 2},
        checkpoint={"every": 1, "keep": 1, "keep_best": True},
        resources={"learner": {"count": 2}},
        trainer={"max_steps": steps, "samples_to_log": 2},
    )
    return TrainConfig.model_validate(values | other)


class Ends:
    """What two calls on the same run folder left behind."""

    def __init__(self, model: str, scenes: Path, folder: Path, fetched: list[pa.Table]) -> None:
        self.model, self.folder, self.fetched = model, folder / "e2e", fetched
        self.first: RunResult = run_training(configured(model, scenes, folder, 2))
        self.exported_first = load_file(self.folder / "export" / "model.safetensors")
        self.config = configured(model, scenes, folder, 3)
        self.second: RunResult = run_training(self.config)
        records = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        self.train = [r for r in records if r["kind"] == "train"]
        self.validation = [r for r in records if r["kind"] == "validation"]


@pytest.fixture(scope="module")
def ends(tiny_model: str, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Ends:
    fetched: list[pa.Table] = []
    plain_get = ray.get

    def watched_get(refs: Any, **kwargs: Any) -> Any:
        found = plain_get(refs, **kwargs)
        fetched.extend(t for t in (found if isinstance(found, list) else [found]) if isinstance(t, pa.Table))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "get", watched_get)
        return Ends(tiny_model, scenes, tmp_path_factory.mktemp("runs"), fetched)


def test_every_step_is_logged_once_and_the_second_call_continues(ends: Ends) -> None:
    assert [r["step"] for r in ends.train] == [0, 1, 2]
    assert [r["step"] for r in ends.validation] == [0, 2, 3]
    assert ends.second.steps == 3


def test_sampler_and_learner_agree_at_every_step(ends: Ends) -> None:
    # Step 1 and 2 are sampled with published weights: a stale part of the engine would show here, not at step 0.
    assert all(r["learner/mismatch_max"] < 1e-4 for r in ends.train)


def test_every_role_did_its_work(ends: Ends) -> None:
    for record in ends.train:
        assert record["learner/optimiser_steps"] == 1
        assert record["learner/skipped"] == 0
        assert record["learner/trained_tokens"] == record["reply/trained_tokens"]
        assert record["time/publish"] > 0
        assert record["pace/samples_per_second"] == pytest.approx(16 / record["time/step"])
        assert record["pace/tokens_per_second"] > record["reply/trained_tokens"] / record["time/step"]
    assert ends.train[0]["learner/kl"] == pytest.approx(0, abs=1e-6)  # the policy is still the reference
    assert ends.train[2]["learner/kl"] > 0


def test_the_weights_moved_and_the_export_is_complete(ends: Ends) -> None:
    start = load_file(Path(ends.model) / "model.safetensors")
    end = load_file(ends.folder / "export" / "model.safetensors")
    assert start.keys() == end.keys()
    moved = [name for name in start if not torch.equal(start[name], end[name])]
    assert len(moved) > 0.9 * len(start)
    assert any(not torch.equal(ends.exported_first[name], end[name]) for name in start)
    assert read_info(str(ends.folder / "export")).family.name == "qwen2_5_vl"


def test_the_export_stands_by_itself_and_a_step_can_be_exported_beside_other_files(ends: Ends, tmp_path: Path) -> None:
    assert {"point.py", "pointing.json", "README.md"} <= {file.name for file in (ends.folder / "export").iterdir()}
    size = json.loads((ends.folder / "export/processor_config.json").read_text())["image_processor"]["size"]
    assert size == {"shortest_edge": ends.config.data.min_pixels, "longest_edge": ends.config.data.max_pixels}
    assert "| object mIoU |" in (ends.folder / "export/README.md").read_text()
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExistsError, match=r"notes\.txt"):
        run_export(ends.config, out, None)
    run_export(ends.config, out, None, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "point.py").is_file()
    assert (out / "model.safetensors").stat().st_mode == (out / "notes.txt").stat().st_mode


def test_the_driver_never_held_an_image(ends: Ends) -> None:
    assert ends.fetched
    assert all("png" not in table.column_names for table in ends.fetched)


def test_old_checkpoints_go_only_after_the_new_one_is_there(ends: Ends) -> None:
    kept = sorted(p.name for p in (ends.folder / "checkpoints").iterdir())
    assert "step-000003" in kept
    assert len(kept) <= 2  # the last one, and the best


def test_validation_scores_each_trajectory_against_its_own_task(ends: Ends) -> None:
    table = pq.read_table(ends.folder / "samples" / "step-000003.parquet")
    rows = table.to_pylist()
    assert len(rows) == 6 * 2 + 6
    truths: dict[str, set[str]] = {}
    for row in rows:
        truths.setdefault(row["task_id"], set()).add(row["ground_truth"])
    assert len(truths) == 6
    assert all(len(each) == 1 for each in truths.values())
    assert len(set.union(*truths.values())) >= 5  # negatives share theirs
    assert sum(row["kind"] == "greedy" for row in rows) == 6
    assert np.isfinite([row["reward"] for row in rows]).all()


def test_the_run_folder_holds_what_the_readme_promises(ends: Ends) -> None:
    for name in ("config.yaml", "versions.json", "metrics.jsonl", "curves.png", "pictures/step-000003.png"):
        assert (ends.folder / name).stat().st_size > 0, name
    assert any((ends.folder / "tensorboard").iterdir())


def test_groups_of_every_step_are_kept_once_and_stand_in_the_report(ends: Ends) -> None:
    """Of the step after the checkpoint too, which the second call made."""
    files = sorted((ends.folder / "rollouts").iterdir())
    assert [file.name for file in files] == [f"step-{step:06d}.parquet" for step in (1, 2, 3)]
    for step, file in enumerate(files):
        rows = pq.read_table(file).to_pylist()
        assert len(rows) == 2 * 4  # groups of four samples
        assert {version for row in rows for version in row["turn_versions"]} == {step}
        assert all(Path(row["image"]).is_file() for row in rows)
    page = (ends.folder / "report.html").read_text()
    assert "after 3 steps" in page
    assert page.count("<image ") >= 6


def test_another_configuration_in_the_same_folder_is_refused(ends: Ends, scenes: Path) -> None:
    other = configured(ends.model, scenes, ends.folder.parent, 3, algorithm={"kl": {"coefficient": 0.5}})
    with pytest.raises(RunExistsError, match=r"algorithm\.adaptive was \{.*\} and is None"):
        run_training(other)
