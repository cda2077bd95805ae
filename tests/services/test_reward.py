"""The service on Ray Serve: both doors give the same bits, and a killed replica loses nothing."""

from __future__ import annotations

import math
import os
import signal
from typing import Any

import httpx
import pyarrow as pa
import pytest
import ray

from schemas.scoring import FrameSpec, ScoreItem
from schemas.service import ServiceOptions
from services import reward
from services.client import RewardClient
from services.handle import HandleClient
from services.retry import Retry, RewardServiceError
from services.scoring import BuiltIn, score_table

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


def replica_pid() -> int:
    """The process of the one replica, asked by name on this test's own cluster."""
    named = [a for a in ray.util.list_named_actors(all_namespaces=True) if "RewardService" in a["name"]]
    (found,) = named
    actor = ray.get_actor(found["name"], namespace=found["namespace"])
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=20))


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


def test_a_killed_replica_loses_nothing_through_either_door(deployed: Any, rollouts: pa.Table) -> None:
    expected = score_table(rollouts, BuiltIn(deployed.options.rules))
    retry = Retry(attempts=8, backoff_s=0.5, longest_s=4.0)
    shard = ray.put(rollouts)
    os.kill(replica_pid(), signal.SIGKILL)
    with RewardClient(deployed.url, deployed.token, timeout_s=3.0, retry=retry) as client:
        pending = HandleClient(deployed.handle, timeout_s=4.0, retry=retry).start(shard)
        answered = client.score(items_of(rollouts))
        assert pending.result(timeout_s=60.0).equals(expected)
    assert [score.reward for score in answered] == expected.column("reward").to_pylist()


def test_an_unset_token_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(RuntimeError, match="NOT_SET_ANYWHERE"):
        reward.read_token(ServiceOptions(token_env="NOT_SET_ANYWHERE"))
    assert reward.read_token(ServiceOptions()) is None
