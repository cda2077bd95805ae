"""An engine of two worker processes, real vLLM: sampler and learner agree, before and after weights by path."""

from pathlib import Path

import pytest

from tests.actors.scripts import report_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_two_workers_in_one_bundle_agree_with_the_learner_before_and_after_an_update(tmp_path: Path) -> None:
    report = report_of("tensor_parallel.py", tmp_path, timeout_s=400)
    assert report["backend"] == "mp"  # not "ray", which one bundle of several GPUs stops
    assert report["before"] < 1e-4
    assert report["after"] < 1e-4
    assert report["after, old weights"] > 0.1
