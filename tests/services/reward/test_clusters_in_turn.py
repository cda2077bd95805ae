"""One process, two Ray clusters in turn: the second one's handles find its own replicas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[3]
TWICE = """
import ray
from orchestrator.roles.local_ray import start_local
from schemas.batch import ROLLOUT
from schemas.config.service import ServiceOptions
from services.reward import deployment as reward
from services.reward.handle import HandleClient

for _ in range(2):
    start_local(num_cpus=2, include_dashboard=False, log_to_driver=False)
    client = HandleClient(reward.deploy(ServiceOptions()), timeout_s=20)
    print("rows", client.score([ray.put(ROLLOUT.empty_table())])[0].num_rows, flush=True)
    ray.shutdown()  # as a driver that dies or leaves would: Serve itself is not told
"""


def test_a_second_cluster_in_the_same_process_scores_too() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("rows")] == ["rows 0", "rows 0"]
