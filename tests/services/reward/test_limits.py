"""The deployed service under pressure: a bounded queue, a bounded time, a reward function of one's own, a drain."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import ray

from schemas.scoring import ScoreItem
from services.http.retry import Retry, RewardServiceError
from services.reward import deployment as reward
from services.reward.client import RewardClient
from services.reward.handle import HandleClient

pytestmark = pytest.mark.cluster
SOURCE = """
import time

def slow(inputs, unit=1.0):
    for one in inputs:
        if one["response"] == "fail":
            raise KeyError("told in the log")
        if one["response"].startswith("wait"):
            time.sleep(unit * float(one["response"][5:]))
    return [{"overall": float(len(one["response"])), "obj_iou": 0.5} for one in inputs]
"""


@pytest.fixture(scope="module")
def slow(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One request at work and two waiting; a batch may take two seconds."""
    file = tmp_path_factory.mktemp("function") / "mine.py"
    file.write_text(SOURCE)
    return cluster.deploy(
        function=f"{file}:slow", function_timeout_s=2.5, max_ongoing_requests=1, max_queued_requests=2, retry_after_s=2
    )


def post(deployed: Any, reply: str, timeout: float = 30.0) -> httpx.Response:
    headers = {"Authorization": f"Bearer {deployed.token}"}
    body = {"items": [{"response": reply}]}
    return httpx.post(f"{deployed.url}/v1/score", json=body, headers=headers, timeout=timeout)


def test_a_function_of_one_s_own_through_both_doors(slow: Any, make_rollouts: Callable[..., pa.Table]) -> None:
    with RewardClient(slow.url, slow.token) as client:
        assert client.active().function == slow.options.function
        (score,) = client.score([ScoreItem(response="four")])
    assert (score.reward, score.terms) == (4.0, {"obj_iou": 0.5})
    table = HandleClient(slow.handle).start(ray.put(make_rollouts(["four"], ["none"], ["pixels"]))).result()
    assert table.select(["reward", "obj_iou", "hand_iou"]).to_pylist() == [
        {"reward": 4.0, "obj_iou": 0.5, "hand_iou": None}
    ]


def test_what_it_fails_on_is_told_to_the_driver_and_not_over_http(
    slow: Any, make_rollouts: Callable[..., pa.Table]
) -> None:
    response = post(slow, "fail")
    assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
    assert "told in the log" not in response.text
    with pytest.raises(Exception, match=r"mine.py:slow: a batch of 1: KeyError: 'told in the log'"):
        HandleClient(slow.handle).start(ray.put(make_rollouts(["fail"], ["none"], ["pixels"]))).result()


def test_beyond_the_queue_callers_are_told_when_to_return(slow: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(slow, "wait 0.7"), range(8)))
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 429}
    assert counts[200] >= 2
    for answer in answers:
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == "2"
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == 429


def test_the_client_returns_as_told_until_it_is_served(slow: Any) -> None:
    retry = Retry(attempts=20, backoff_s=0.05, longest_s=0.3)

    def score(number: int) -> float:
        with RewardClient(slow.url, slow.token, retry=retry) as client:
            return client.score([ScoreItem(response="wait 0.1" + "0" * number)])[0].reward

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(score, range(8))) == [8.0 + number for number in range(8)]


def test_a_batch_that_takes_too_long_is_stopped_and_the_next_is_served(slow: Any) -> None:
    began = time.monotonic()
    assert post(slow, "wait 60").status_code == 500
    assert time.monotonic() - began < 15
    assert post(slow, "four").json()["scores"][0]["reward"] == 4.0


def test_a_request_that_takes_too_long_is_a_408(cluster: Any, slow: Any) -> None:
    headers = {"Authorization": f"Bearer {slow.token}", "X-Request-Timeout-Seconds": "0.5"}
    body = {"items": [{"response": "wait 2"}]}
    response = httpx.post(f"{slow.url}/v1/score", json=body, headers=headers, timeout=30)
    assert response.status_code == 408
    assert response.headers["content-type"] == "application/problem+json"
    time.sleep(2.0)  # the function finishes what nobody waits for


def test_a_drain_answers_what_was_begun_and_turns_others_away(slow: Any) -> None:
    """Last: it takes the service down."""
    begun: list[httpx.Response] = []
    at_work = threading.Thread(target=lambda: begun.append(post(slow, "wait 2")))
    at_work.start()
    time.sleep(0.7)
    down = threading.Thread(target=reward.undeploy)
    down.start()
    time.sleep(0.7)
    turned_away = post(slow, "late")
    at_work.join()
    down.join()
    assert begun[0].json()["scores"][0]["reward"] == 6.0
    assert (turned_away.status_code, turned_away.headers["retry-after"]) == (503, "1")
    with RewardClient(slow.url, slow.token, retry=Retry(attempts=1)) as client, pytest.raises(RewardServiceError):
        client.wait_ready()


def test_a_function_that_is_not_there_is_refused_before_anything_starts(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.py"):
        cluster.deploy(function=f"{tmp_path}/absent.py:f")
