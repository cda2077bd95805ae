"""A whole Ray node goes, with the rollout engine on it and the images that engine drew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.faults.nodes import two_nodes
from tests.faults.training import Training, assert_equal, config

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP"])
def test_a_node_that_is_lost_changes_no_number(
    calm: Training, scenes: Path, tmp_path: Path, fault: str, rows: list[Any]
) -> None:
    with two_nodes() as environment, Training(config(tmp_path, scenes), {"node": fault}, environment) as run:
        run.finish()
    assert run.hurt_at("node") is not None, "nothing happened"
    assert_equal(run, calm)
    found = [r for r in run.recoveries() if r["role"] == "rollout"]
    assert found
    rows.append(("node", fault, found[0]["fault"], found[0]["seconds"]))
    shutil.rmtree(tmp_path)
