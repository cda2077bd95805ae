"""In 1,000 trajectories of the shipped model, the learner's ids are the engine's, and the mask is what was sampled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pointing.scenes import write_scenes

SCRIPT = Path(__file__).with_name("thousand.py")


@pytest.mark.cluster
@pytest.mark.slow
def test_a_thousand_trajectories(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", train=125, validation=1, test=1, seed=7)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "scenes")],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent.parent)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["two_turns"] > 500
    assert {counts[key] for key in ("trajectories", "same_ids", "same_sampled", "mask_is_sampled")} == {1000}
