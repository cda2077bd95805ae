"""What a page says of settings and of changes, against configurations and tables worked by hand."""

import math

import pytest

from orchestrator.report.comparison import ChangeCells, metric_changes
from orchestrator.report.facts import changed_settings
from schemas.config import TrainConfig

MINIMAL = {"model": {"path": "m"}, "data": {"train_files": "a.jsonl"}, "trainer": {"max_steps": 9}}


def changed(**sections: object) -> dict[str, tuple[str, str]]:
    config = TrainConfig.model_validate(MINIMAL | sections)
    return {found.field: (found.value, found.default) for found in changed_settings(config)}


def test_what_had_to_be_given_has_no_default() -> None:
    assert changed() == {
        "model.path": ("m", ""),
        "data.train_files": ("a.jsonl", ""),
        "trainer.max_steps": ("9", "null"),
    }


def test_a_changed_setting_stands_beside_its_default() -> None:
    found = changed(
        run={"name": "x", "deterministic": True},
        learner={"optimiser": {"betas": [0.8, 0.99]}},
        reward={"rules": {"negative_max": 10, "obj_iou": 4}},
        algorithm={"adaptive": {"momentum": 0.5}},
    )
    assert found.pop("run.deterministic") == ("true", "false")
    assert found["learner.optimiser.betas"] == ("0.8, 0.99", "0.9, 0.999")
    assert found["reward.rules.obj_iou"] == ("4", "5")
    assert "reward.rules.negative_max" not in found, "a run's default is 10, the rules' own is 1"
    assert found["algorithm.adaptive.momentum"][0] == "0.5"
    assert found["algorithm.adaptive"] == ("given", "null"), "seen even where all in it is at its default"
    assert "run.name" not in found


def test_changes_are_paired_and_have_their_interval() -> None:
    """Differences 1, 2 and 3: mean 2, standard error 1 / sqrt(3), Student's t of two degrees of freedom is 4.303."""
    before = {"greedy/reward": {"a": 1.0, "b": 5.0, "c": 3.0}}
    after = {"greedy/reward": {"a": 2.0, "b": 7.0, "c": 6.0}}
    [row] = metric_changes([before, after])
    assert (row.name, row.mode, row.values) == ("reward, of 10", "greedy", ("3.00", "5.00"))
    [cells] = row.changes
    assert cells.mean == "+2.00"
    low, high = (float(part) for part in cells.interval.split(" to "))
    assert (high - low) / 2 == pytest.approx(4.303 / math.sqrt(3), rel=0.02)
    assert cells.verdict == "no clear change", "2.48 to either side of 2"


def test_lower_is_better_of_errors_and_a_share_is_in_per_cent() -> None:
    tasks = [f"t{n}" for n in range(20)]
    before = {"greedy/ray_error_deg": dict.fromkeys(tasks, 9.0), "greedy/format_rate": dict.fromkeys(tasks, 1.0)}
    after = {"greedy/ray_error_deg": dict.fromkeys(tasks, 4.0), "greedy/format_rate": dict.fromkeys(tasks, 0.5)}
    rows = {row.name: row.changes[0] for row in metric_changes([before, after])}
    assert rows["ray error, degrees"].verdict == "better"
    assert rows["well-formed, %"].mean == "-50.0"
    assert rows["well-formed, %"].verdict == "worse"


def test_what_was_measured_once_has_no_change() -> None:
    assert [row.changes for row in metric_changes([{"greedy/reward": {"a": 1.0}}, {}])] == [(ChangeCells(),)]
    [alone] = metric_changes([{"greedy/reward": {"a": 1.0}}, {"greedy/reward": {"a": 2.0}}])
    assert alone.changes == (ChangeCells("+1.00"),), "a single task says nothing of its spread"
