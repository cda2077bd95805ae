"""A whole Ray node goes, with the rollout engine on it and the images that engine drew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults.nodes import two_nodes
from tests.faults.training import Row, Training, assert_equal, config, row_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(2000)]


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP"])
def test_a_node_that_is_lost_changes_no_number(
    calm: Training, scenes: Path, tmp_path: Path, fault: str, rows: list[Row]
) -> None:
    with two_nodes() as environment, Training(config(tmp_path, scenes), {"node": fault}, environment) as run:
        run.finish()
    assert_equal(run, calm)
    assert "lost         rollout rank(s)" in run.log.read_text(encoding="utf-8")
    rows.append(row_of(run, "node", fault, "rollout"))  # its six steps may be over before a new engine is there
    shutil.rmtree(tmp_path)
