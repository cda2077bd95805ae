"""Replicas follow the load, up and down again."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from schemas.config.service import Autoscaling
from services.reward import deployment as reward
from services.reward.handle import HandleClient

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SLOW_REWARD = """
import time

def score(inputs):
    time.sleep(0.3)
    return [{"reward": 1.0} for _ in inputs]
"""


def running() -> int:
    """Replicas that can take calls."""
    deployed = serve.status().applications[reward.APP_NAME].deployments["RewardService"]
    return int(deployed.replica_states.get("RUNNING", 0))


def wait_for(replicas: int, within_s: float) -> float:
    started = time.monotonic()
    while time.monotonic() - started < within_s:
        if running() == replicas:
            return time.monotonic() - started
        time.sleep(0.5)
    raise AssertionError(f"{running()} replicas after {within_s} s, not {replicas}: {serve.status()}")


def test_replicas_follow_the_load(cluster: Any, rollouts: Any, tmp_path: Path) -> None:
    path = tmp_path / "slow_reward.py"
    path.write_text(SLOW_REWARD, encoding="utf-8")
    scaling = Autoscaling(
        min_replicas=1, max_replicas=2, target_ongoing_requests=1, upscale_delay_s=0.5, downscale_delay_s=1
    )
    service = cluster.deploy(autoscaling=scaling, function=f"{path}:score", cpus_per_replica=0.5)
    assert running() == 1
    client, shard, done = HandleClient(service.handle), ray.put(rollouts), threading.Event()
    lost: list[BaseException] = []

    def load() -> None:
        while not done.is_set():
            try:
                client.score([shard])
            except BaseException as error:
                lost.append(error)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        wait_for(2, within_s=90)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not lost  # while replicas came
    wait_for(1, within_s=90)
