"""The service on Ray Serve: both doors give the same bits, and a killed replica loses nothing."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pyarrow as pa
import pytest
import ray
from ray import serve

from schemas.config.service import ServiceOptions
from schemas.scoring import FrameSpec, ScoreItem
from services.http.replicas import read_token
from services.http.retry import Retry, RewardServiceError
from services.reward import keeper
from services.reward.client import RewardClient
from services.reward.handle import HandleClient
from services.reward.scoring import BuiltIn, score_table

pytestmark = pytest.mark.cluster


def items_of(rollouts: pa.Table) -> list[ScoreItem]:
    return [
        ScoreItem(
            id=row["trajectory_id"],
            response=row["reply"],
            ground_truth=row["ground_truth"],
            frame=FrameSpec(kind=row["frame"], original_size=row["original_size"], seen_size=row["seen_size"]),
        )
        for row in rollouts.to_pylist()
    ]


def replica_pids() -> list[int]:
    """The processes of the replicas, asked by name on this test's own cluster."""
    pids: list[int] = []
    for named in ray.util.list_named_actors(all_namespaces=True):
        if "RewardService" in named["name"]:
            actor = ray.get_actor(named["name"], namespace=named["namespace"])
            pids.append(int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=20)))
    return pids


def test_function_handle_and_http_agree_to_the_last_bit(deployed: Any, rollouts: pa.Table) -> None:
    expected = score_table(rollouts, BuiltIn(deployed.options.rules))
    shards = [ray.put(rollouts.slice(0, 7)), ray.put(rollouts.slice(7))]
    tables = HandleClient(deployed.handle).score(shards)
    assert pa.concat_tables(tables).equals(expected)
    with RewardClient(deployed.url, deployed.token, items_per_request=5) as client:
        answered = client.score(items_of(rollouts))
        assert client.active().rules == deployed.options.rules
    for row, score in zip(expected.to_pylist(), answered, strict=True):
        assert score.id == row["trajectory_id"]
        assert math.copysign(1, score.reward) == math.copysign(1, row["reward"])
        assert score.reward.hex() == row["reward"].hex()
        for name in set(row) - {"trajectory_id", "reward"}:
            assert score.terms.get(name) == row[name], name


def test_without_the_token_the_service_answers_401(deployed: Any) -> None:
    response = httpx.post(f"{deployed.url}/v1/score", json={"items": [{"response": "x"}]}, timeout=10)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert httpx.get(f"{deployed.url}/readyz", timeout=10).json() == {"ready": True}
    with RewardClient(deployed.url, "wrong") as client, pytest.raises(RewardServiceError, match="401 Unauthorized"):
        client.score([ScoreItem(response="x")])


def test_through_the_proxy_large_and_unreadable_bodies_are_problems(deployed: Any) -> None:
    auth = {"Authorization": f"Bearer {deployed.token}", "Content-Type": "application/json"}
    with httpx.Client(base_url=deployed.url, headers=auth, timeout=10) as http:
        streamed = http.post("/v1/score", content=iter([b"x" * 1_000_000] * 9))
        unreadable = http.post("/v1/score", content=b'{"items": [{"response": "", "ground_truth": {"x": NaN}}]}')
        many = http.post("/v1/score", json={"items": [{"response": ""}] * 65})
    assert [r.status_code for r in (streamed, unreadable, many)] == [413, 422, 413]
    assert {r.headers["content-type"] for r in (streamed, unreadable, many)} == {"application/problem+json"}


def test_a_wrong_table_is_an_error_at_once(deployed: Any, rollouts: pa.Table) -> None:
    with pytest.raises(Exception, match="reward input: columns missing"):
        HandleClient(deployed.handle).start(ray.put(rollouts.drop_columns(["reply"]))).result()


def test_the_whole_wait_is_bounded(deployed: Any, rollouts: pa.Table) -> None:
    pending = HandleClient(deployed.handle).start(ray.put(rollouts))
    with pytest.raises(RewardServiceError, match=r"not scored in 0\.0 s"):
        pending.result(timeout_s=0.0)
    assert pending.result(timeout_s=30.0).num_rows == rollouts.num_rows


def test_counts_are_on_ray_s_metrics_port(deployed: Any, cluster: Any, rollouts: pa.Table) -> None:
    HandleClient(deployed.handle).score([ray.put(rollouts)])
    with RewardClient(deployed.url, deployed.token) as client:
        client.score(items_of(rollouts))
        client.evaluate(items_of(rollouts))
    httpx.get(f"{deployed.url}/v1/rewards", timeout=10)
    httpx.get(f"{deployed.url}/secret/path", timeout=10)
    wanted = {
        "ray_pointvg_reward_items_total": {'door="http"', 'door="handle"'},
        "ray_pointvg_reward_requests_total": {'route="/v1/evaluate"', 'route="other"', 'status="401"', 'status="200"'},
        "ray_pointvg_reward_request_seconds_bucket": {'route="/v1/score"'},
        "ray_pointvg_reward_batch_seconds_count": {'door="handle"'},
    }
    deadline = time.monotonic() + 30
    missing = wanted
    while missing and time.monotonic() < deadline:
        time.sleep(0.5)
        page = httpx.get(f"http://127.0.0.1:{cluster.metrics_port}/metrics", timeout=10).text
        found = {name: [line for line in page.splitlines() if line.startswith(name)] for name in wanted}
        missing = {
            name: left
            for name, tags in wanted.items()
            if (left := {tag for tag in tags if not any(tag in line for line in found[name])})
        }
    assert not missing
    assert "secret" not in page
    items = sum(float(line.rsplit(" ", 1)[1]) for line in found["ray_pointvg_reward_items_total"])
    assert items >= 3 * rollouts.num_rows


def under_fire(deployed: Any, rollouts: pa.Table, batches: int, kills: int) -> None:
    """Sends batches through both doors while replicas are killed; every one is answered, once, as if none were."""
    reward = BuiltIn(deployed.options.rules)
    retry = Retry(attempts=12, backoff_s=0.2, longest_s=3.0)
    expected = score_table(rollouts, reward)
    rows, items, answered, killed = rollouts.num_rows, items_of(rollouts), Counter[int](), 0
    lock = threading.Lock()

    def part(number: int) -> tuple[int, int]:
        return number % rows, 1 + number % 3

    def check(number: int, rewards: list[float], ids: list[str | None]) -> None:
        first, count = part(number)
        wanted = expected.slice(first, count)
        assert [value.hex() for value in rewards] == [value.hex() for value in wanted.column("reward").to_pylist()]
        assert ids == wanted.column("trajectory_id").to_pylist()
        with lock:
            answered[number] += 1

    def over_http(numbers: range) -> None:
        with RewardClient(deployed.url, deployed.token, timeout_s=5.0, retry=retry) as client:
            for number in numbers:
                first, count = part(number)
                scores = client.score(items[first : first + count])
                check(number, [score.reward for score in scores], [score.id for score in scores])

    def through_handle(numbers: range) -> None:
        client = HandleClient(deployed.handle, timeout_s=5.0, retry=retry)
        for number in numbers:
            table = client.start(ray.put(rollouts.slice(*part(number)))).result()
            check(number, table.column("reward").to_pylist(), table.column("trajectory_id").to_pylist())

    with ThreadPoolExecutor(6) as pool:
        work = [pool.submit(over_http, range(k, batches // 2, 4)) for k in range(4)]
        work += [pool.submit(through_handle, range(batches // 2 + k, batches, 2)) for k in range(2)]
        while not all(one.done() for one in work):
            if killed < kills and sum(answered.values()) >= (killed + 1) * batches // (kills + 1):
                os.kill(replica_pids()[0], signal.SIGKILL)
                killed += 1
            time.sleep(0.01)
        for one in work:
            one.result()
    assert killed == kills
    assert answered == Counter(range(batches))


def test_a_killed_replica_loses_nothing_through_either_door(deployed: Any, rollouts: pa.Table) -> None:
    under_fire(deployed, rollouts, batches=200, kills=1)


@pytest.mark.slow
def test_replicas_killed_under_a_load_of_five_thousand_batches_lose_nothing(cluster: Any, rollouts: pa.Table) -> None:
    under_fire(cluster.deploy(replicas=2), rollouts, batches=5000, kills=4)


def test_an_unset_token_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(RuntimeError, match="NOT_SET_ANYWHERE"):
        read_token(ServiceOptions(token_env="NOT_SET_ANYWHERE", port=8100), "reward")
    assert read_token(ServiceOptions(), "reward") is None


@pytest.mark.parametrize(("given", "token"), [("s3cret\n", "s3cret"), (" s3cret\r\n", "s3cret"), ("s3cret", "s3cret")])
def test_the_end_of_line_of_a_file_is_no_part_of_a_token(
    monkeypatch: pytest.MonkeyPatch, given: str, token: str
) -> None:
    monkeypatch.setenv("POINTVG_TOKEN", given)
    assert read_token(ServiceOptions(token_env="POINTVG_TOKEN", port=8100), "reward") == token


@pytest.mark.parametrize("given", ["", "\n", "two\nlines", "a\ttab", "caf\u00e9"])
def test_a_token_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("POINTVG_TOKEN", given)
    with pytest.raises(RuntimeError, match=r"POINTVG_TOKEN \(reward\.token_env\)"):
        read_token(ServiceOptions(token_env="POINTVG_TOKEN", port=8100), "reward")


def in_controller(do: Any) -> None:
    """Runs a function in the process of Serve's controller."""
    controller: Any = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    ray.get(controller.__ray_call__.remote(do), timeout=20)


def raise_on_status(controller: Any) -> None:
    def raises(*_: Any, **__: Any) -> None:
        raise RuntimeError("a controller that raises")

    controller.application_state_manager.list_app_statuses = raises  # what `serve status` asks it for


def raise_no_more(controller: Any) -> None:
    del controller.application_state_manager.list_app_statuses


def test_a_controller_that_raises_is_asked_again_and_scoring_goes_on(
    deployed: Any, rollouts: pa.Table, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keeper, "EVERY_S", 0.0)
    gone = keeper.ServiceKeeper(deployed.options.model_copy(update={"port": None}), "gone", silence_s=0.1)
    client = HandleClient(deployed.handle, keeper=gone)
    in_controller(raise_on_status)
    try:
        time.sleep(0.2)
        client.look()
        assert client.handle is deployed.handle
        assert "a controller that raises" in capsys.readouterr().out
        client.score([ray.put(rollouts)])
    finally:
        in_controller(raise_no_more)
    client.look()
    assert client.handle is not deployed.handle  # what was gone is deployed now
    client.score([ray.put(rollouts)])
    serve.delete("gone")
