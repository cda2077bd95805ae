"""An engine of two worker processes, real vLLM: sampler and learner agree, before and after weights by path."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("tensor_parallel.py")

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_two_workers_in_one_bundle_agree_with_the_learner_before_and_after_an_update(tmp_path: Path) -> None:
    root = SCRIPT.parent.parent.parent
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["backend"] == "mp"  # not "ray", which one bundle of several GPUs stops
    assert report["before"] < 1e-4
    assert report["after"] < 1e-4
    assert report["after, old weights"] > 0.1
