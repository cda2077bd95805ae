"""Rollout rows to score, and one Ray cluster with the reward service on it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from schemas.batch import ROLLOUT
from schemas.config.service import ServiceOptions
from schemas.scoring import RewardRules

TOKEN_ENV = "POINTVG_TEST_REWARD_TOKEN"
TOKEN = "a token of the tests"
TRUTH = {
    "stage": 2,
    "hand_bbox": [97, 161, 137, 225],
    "pointing_keypoints": [[110, 170], [120, 165]],
    "pointing_ray": {"start": [120, 165], "end": [200, 60]},
    "obj_bbox": [136, 36, 206, 102],
    "obj_name": "cup",
}
HAND = "<think><|box_start|>[30, 60, 45, 80]<|box_end|> <|point_start|>[34, 61]<|point_end|> "
RAY = '<|point_start|>[37, 59]<|point_end|></think><tool_call>{"name": "draw_ray", "start": [37, 59], "end": [63, 21], '
ANSWER = "<answer>It is <|caption_start|>a cup<|caption_end|> <|box_start|>[43, 13, 65, 37]<|box_end|></answer>"
REPLIES = [
    HAND + RAY + '"color": "red"}</tool_call>\n' + ANSWER,
    ANSWER,
    "no marks at all",
    HAND + "<tool_call>{</tool_call>" + ANSWER * 3,
    "<|box_start|>[" + "9" * 400 + ", 1, 2, 3]<|box_end|>",
    "",
]


def rollout_table(replies: list[str], truths: list[str], kinds: list[str]) -> pa.Table:
    rows = [
        {
            "trajectory_id": f"0/t{i}/0",
            "group_id": f"0/t{i}",
            "task_id": f"t{i}",
            "sample": 0,
            "kind": "sample",
            "token_ids": [5, 6],
            "mask": [0, 1],
            "behaviour_logprobs": [0.0, -0.5],
            "image_digests": [],
            "image_grids": [],
            "turn_texts": [reply],
            "turn_lengths": [1],
            "turn_versions": [0],
            "ended_by": "answer",
            "reply": reply,
            "ground_truth": truth,
            "frame": kind,
            "original_size": [320, 273],
            "seen_size": [308, 280],
        }
        for i, (reply, truth, kind) in enumerate(zip(replies, truths, kinds, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=ROLLOUT)


@pytest.fixture(scope="session")
def make_rollouts() -> Callable[..., pa.Table]:
    """Builds a ROLLOUT table of given replies, ground truths (JSON) and frame kinds."""
    return rollout_table


@pytest.fixture(scope="session")
def rollouts() -> pa.Table:
    """Every reply in both frames against a positive, then against a negative."""
    positive = json.dumps(TRUTH)
    n = len(REPLIES)
    return rollout_table(
        REPLIES * 3, [positive] * 2 * n + ["none"] * n, ["pixels"] * n + ["thousandths"] * n + ["pixels"] * n
    )


@dataclass(frozen=True)
class Cluster:
    """A local Ray cluster of two CPUs. Every deployment on it has the same HTTP port."""

    port: int
    metrics_port: int

    def deploy(self, **options: Any) -> Deployed:
        """The reward service with both doors, in place of what was there."""
        from services.reward import deployment as reward

        chosen = ServiceOptions(port=self.port, token_env=TOKEN_ENV, request_timeout_s=20.0, **options)
        return Deployed(chosen, reward.deploy(chosen), f"http://127.0.0.1:{self.port}", TOKEN)


@dataclass(frozen=True)
class Deployed:
    """The running service."""

    options: ServiceOptions
    handle: Any
    url: str
    token: str


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """One Ray cluster for all tests of this package."""
    import ray

    from orchestrator.roles.local_ray import start_local
    from services.http.proxy import PROXY_ENV
    from services.reward import deployment as reward

    made = Cluster(free_port(), free_port())
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv(TOKEN_ENV, TOKEN)  # read by the replica, so before Ray starts
        for name, value in PROXY_ENV.items():
            environment.setenv(name, value)
        start_local(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _metrics_export_port=made.metrics_port,
            _system_config={"metrics_report_interval_ms": 1000},
        )
        try:
            yield made
            reward.shutdown()
        finally:
            ray.shutdown()


@pytest.fixture(scope="module")
def deployed(cluster: Cluster) -> Deployed:
    """The reward service as most tests want it."""
    return cluster.deploy(rules=RewardRules(negative_max=10.0), max_items=64)
