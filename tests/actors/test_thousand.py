"""In 1,000 trajectories of the shipped model, the learner's ids are the engine's, and the mask is what was sampled."""

from pathlib import Path

import pytest

from pointing.scenes import write_scenes
from tests.actors.scripts import report_of


@pytest.mark.cluster
@pytest.mark.slow
def test_a_thousand_trajectories(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", train=125, validation=1, test=1, seed=7)
    counts = report_of("thousand.py", tmp_path / "scenes", timeout_s=500)
    assert counts["two_turns"] > 500
    assert {counts[key] for key in ("trajectories", "same_ids", "same_sampled", "mask_is_sampled")} == {1000}
