"""deploy/reward on this machine: its worker's Ray, its serveConfigV2 put as the operator puts it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from schemas.scoring import ScoreItem
from services.reward.client import RewardClient
from tests.deploy.local_head import Head, free_ports, started
from tests.deploy.manifests import groups, only

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
TOKEN = "a token of the tests"


@dataclass(frozen=True, slots=True)
class Served:
    """The service, and the Ray node that it runs on."""

    head: Head
    url: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    document = only("reward", "RayService")
    config: dict[str, Any] = yaml.safe_load(document["spec"]["serveConfigV2"])
    (port,) = free_ports(1)
    config["http_options"]["port"] = config["applications"][0]["args"]["port"] = port
    values = {"POINTVG_REWARD_TOKEN": TOKEN}
    with started(groups(document)["reward"], tmp_path_factory.mktemp("app"), values) as head:
        bearer = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
        with httpx.Client(base_url=head.address, headers=bearer, timeout=60) as operator:
            operator.put("/api/serve/applications/", json=config).raise_for_status()
            deadline, application = time.monotonic() + 180, {}
            while application.get("status") not in ("RUNNING", "DEPLOY_FAILED") and time.monotonic() < deadline:
                time.sleep(1)
                application = operator.get("/api/serve/applications/").json()["applications"].get("reward", {})
        assert application.get("status") == "RUNNING", application
        yield Served(head, f"http://127.0.0.1:{port}")


def test_it_answers_callers_with_the_token(served: Served) -> None:
    reply = "<answer><|caption_start|>a cup<|caption_end|> <|box_start|>[10, 10, 50, 50]<|box_end|></answer>"
    item = ScoreItem.model_validate({"response": reply, "ground_truth": {"obj_bbox": [10, 10, 50, 60]}})
    body = {"items": [item.model_dump(mode="json")]}
    assert httpx.post(f"{served.url}/v1/score", json=body, timeout=30).status_code == 401
    with RewardClient(served.url, TOKEN) as client:
        assert client.score([item])[0].reward == pytest.approx(6.0)  # 5 x IoU 0.8, and 2 for the form


def test_the_readiness_probe_of_a_worker_asks_the_proxy(served: Served) -> None:
    probe = groups(only("reward", "RayService"))["reward"].ray["readinessProbe"]["httpGet"]
    answer = httpx.get(served.url + probe["path"], timeout=30)
    assert (answer.status_code, answer.text) == (200, "success")


def test_the_proxy_tells_its_own_errors_as_problems(served: Served) -> None:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        answer = client.get("/v1/nothing", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_its_counts_are_on_the_metrics_port(served: Served) -> None:
    wanted = {"ray_pointvg_reward_requests_total", "ray_pointvg_reward_request_seconds_bucket"}
    wanted |= {"ray_pointvg_reward_items_total", "ray_pointvg_reward_batch_seconds_bucket"}
    with RewardClient(served.url, TOKEN) as client:
        client.score([ScoreItem(response="")])
    deadline, found = time.monotonic() + 30, set[str]()
    while not wanted <= found and time.monotonic() < deadline:
        time.sleep(0.5)
        found = {line.partition("{")[0] for line in served.head.metrics().splitlines()}
    assert wanted <= found


def test_the_node_carries_the_label_of_its_role(served: Served, tmp_path: Path) -> None:
    done = served.head.shell(f"ray list nodes --address {served.head.address} --detail --format json", timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["labels"]["pointvg.role"] == "reward"
