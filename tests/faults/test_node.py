"""A whole Ray node goes: with the rollout engine on it and the images that engine drew, or with a learner rank."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.nodes import two_nodes
from tests.faults.training import Row, Training, assert_equal, config, row_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(2000)]


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("role", ["rollout", "learner"])
def test_a_node_that_is_lost_changes_no_number(
    calm: Training, scenes: Path, tmp_path: Path, role: str, fault: str, rows: list[Row]
) -> None:
    values = config(tmp_path, scenes)
    for name in ("rollout", "learner"):  # the other node has room for one process
        values["resources"][name]["place"] = {"strategy": "SPREAD" if name == role else "PACK"}
    with two_nodes() as environment, Training(values, {"node": fault}, environment) as run:
        run.finish()
    assert_equal(run, calm)
    assert f"lost         {role} rank(s)" in run.log.read_text(encoding="utf-8")
    row = row_of(run, "node", fault, role)  # its six steps may be over before a new engine is there
    rows.append(replace(row, part=f"node of {role} rank"))
    shutil.rmtree(tmp_path)


def test_a_node_whose_raylet_alone_is_killed_changes_no_number(calm: Training, scenes: Path, tmp_path: Path) -> None:
    values = config(tmp_path, scenes)
    values["resources"]["learner"]["place"] = {"strategy": "PACK"}
    with two_nodes() as environment, Training(values, {"raylet": "SIGKILL"}, environment) as run:
        run.finish()
    assert run.when("raylet"), "it was never killed"
    assert_equal(run, calm)
    assert "lost         rollout rank(s)" in run.log.read_text(encoding="utf-8")
    shutil.rmtree(tmp_path)
