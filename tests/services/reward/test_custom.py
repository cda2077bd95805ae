"""A reward function of one's own: as published, in a process of its own, stopped when it does not return."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from pointing import rewards
from pointing.coordinates import Frame, Size
from schemas.config.service import ServiceOptions
from schemas.scoring import SCORE_TERMS, RewardRules
from services.reward.custom import CustomReward, open_reward
from services.reward.routes import build_api
from services.reward.scoring import BuiltIn, Item, Scored, ScoringError, score_table

SOURCE = """
import os, time
import numpy
from helper import TWO
from pointing.rewards import compute_score as published

def longest(inputs, weight=1.0):
    print("a function may print")
    return [{"overall": weight * len(i["response"]) * TWO, "words": len(i["response"].split())} for i in inputs]

def echo(inputs, **kwargs):
    assert [sorted(i) for i in inputs] == [["frame", "ground_truth", "id", "response"]] * len(inputs)
    out = []
    for i in inputs:
        frame = i["frame"] or {"original_size": [-1, -1]}
        out.append({"reward": numpy.float32(0.5), "truth": bool(i["ground_truth"]), "width": frame["original_size"][0]})
    return out

def misbehave(inputs, how="raise"):
    if how == "raise":
        return 1 / len(inputs[0]["response"].strip("x"))
    if how == "exit":
        os._exit(3)
    if how == "spin":
        while True:
            pass
    return {"short": [], "none": None, "text": ["high"], "keys": [{"score": 1.0}], "nan": [{"overall": float("nan")}],
            "word": [{"overall": "high"}], "huge": [{"overall": 10 ** 400}], "list": [{"overall": [1]}]}[how]

constant = 5
"""

LINE = SOURCE[: SOURCE.index("return 1 /")].count("\n") + 1


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("custom")
    (folder / "helper.py").write_text("TWO = 2\n")
    (folder / "mine.py").write_text(SOURCE)
    return folder / "mine.py"


Opener = Callable[..., CustomReward]


@pytest.fixture
def opened(source: Path) -> Iterator[Opener]:
    made: list[CustomReward] = []

    def opener(name: str, timeout_s: float = 20.0, **kwargs: Any) -> CustomReward:
        made.append(CustomReward(f"{source}:{name}", kwargs, timeout_s))
        return made[-1]

    yield opener
    for one in made:
        one.close()


def test_dictionaries_in_dictionaries_out_with_its_own_arguments(opened: Opener) -> None:
    reward = opened("longest", weight=0.25)
    assert reward.score([Item("four", None), Item("two words", {})]) == [
        Scored(2.0, {"words": 1.0}),
        Scored(4.5, {"words": 2.0}),
    ]
    assert reward.score([]) == []


def test_what_a_function_gets(opened: Opener) -> None:
    frame = Frame("thousandths", Size(640, 480), Size(644, 476))
    items = [Item("\ud800", {"hand_bbox": [1]}, frame, "a"), Item("", None)]
    assert opened("echo").score(items) == [
        Scored(0.5, {"truth": 1.0, "width": 640.0}),
        Scored(0.5, {"truth": 0.0, "width": -1.0}),
    ]


def test_the_published_function_gives_the_built_in_numbers_to_the_last_bit(opened: Opener, rollouts: pa.Table) -> None:
    reward = opened("published", negative_max=10.0)
    kinds = pa.array(["pixels"] * rollouts.num_rows)
    sizes = rollouts.column("original_size")
    names = rollouts.schema.names
    plain = rollouts.set_column(names.index("frame"), rollouts.schema.field("frame"), kinds)
    plain = plain.set_column(names.index("seen_size"), rollouts.schema.field("seen_size"), sizes)
    mine = score_table(plain, reward)
    built_in = score_table(plain, BuiltIn(RewardRules(negative_max=10.0)))
    assert mine.equals(built_in)
    assert {name for name in SCORE_TERMS if mine.column(name).null_count < mine.num_rows} == set(SCORE_TERMS)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "ZeroDivisionError: division by zero"),
        ("short", "returned a list of 0 for 1 inputs"),
        ("none", "returned a NoneType for 1 inputs"),
        ("text", "item 0: returned a str; expected a dictionary"),
        ("keys", "item 0: has neither 'overall' nor 'reward', only ['score']"),
        ("nan", "item 0: 'overall' is not finite: nan"),
        ("word", "item 0: 'overall' is a str and not a number"),
        ("huge", "item 0: 'overall' is a int and not a number"),
        ("list", "item 0: 'overall' is a list and not a number"),
        ("exit", "a batch of 1 died (3)"),
    ],
)
def test_what_goes_wrong_is_told_and_the_next_batch_is_scored(opened: Opener, how: str, words: str) -> None:
    reward = opened("misbehave", how=how)
    for _ in range(2):
        with pytest.raises(ScoringError) as caught:
            reward.score([Item("xx", None)])
        assert words in str(caught.value)
        assert "mine.py:misbehave" in str(caught.value)
    if how == "raise":
        assert "mine.py" in str(caught.value)
        assert f"line {LINE}" in str(caught.value)  # where in the user's file
    reward.check()


def test_a_function_that_does_not_return_is_stopped(opened: Opener) -> None:
    reward = opened("misbehave", timeout_s=3.0, how="spin")
    began = time.monotonic()
    with pytest.raises(ScoringError, match="a batch of 1 took longer than 3 s"):
        reward.score([Item("", None)])
    assert time.monotonic() - began < 10
    reward.check()  # loaded anew


@pytest.mark.parametrize(
    ("name", "words"),
    [("absent", "has no function 'absent'; it has"), ("constant", "has no function 'constant'")],
)
def test_a_function_that_is_not_there_is_an_error_at_once(source: Path, name: str, words: str) -> None:
    with pytest.raises(ScoringError, match=words):
        CustomReward(f"{source}:{name}", {}, 20.0)


def test_a_file_that_cannot_be_loaded_is_an_error_at_once(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import not_a_module_of_anyone\n")
    with pytest.raises(ScoringError, match="ModuleNotFoundError: No module named 'not_a_module_of_anyone'"):
        CustomReward(f"{broken}:f", {}, 20.0)
    with pytest.raises(ScoringError, match="No such file"):
        CustomReward(f"{tmp_path / 'absent.py'}:f", {}, 20.0)


def test_its_process_ends_with_its_parent_even_in_the_middle_of_a_batch(source: Path) -> None:
    import subprocess
    import sys

    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    arguments = [sys.executable, "-m", "services.reward.custom_worker", str(source), "misbehave", '{"how": "spin"}']
    with subprocess.Popen(arguments, stdin=-1, stdout=-1, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"scores": []}
        process.stdin.write(b"[]\n")
        process.stdin.close()
        assert process.wait(timeout=20) == 0


def test_over_http_a_failure_is_a_500_without_its_words(source: Path) -> None:
    options = ServiceOptions(function=f"{source}:misbehave", function_kwargs={"how": "raise"})
    reward = open_reward(options)
    try:
        client = TestClient(build_api(options, reward=reward), raise_server_exceptions=False)
        assert client.get("/v1/rewards").json() == {
            "rules": None,
            "function": options.function,
            "function_kwargs": {"how": "raise"},
        }
        response = client.post("/v1/score", json={"items": [{"response": "xx"}]})
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert "ZeroDivision" not in response.text
        assert client.get("/readyz").status_code == 200
    finally:
        reward.close()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"function": "mine.py"}, "function"),
        ({"function": "mine:f"}, "function"),
        ({"function": "mine.py:f", "rules": {"obj_iou": 3}}, "rules are those of the built-in reward"),
        ({"function_kwargs": {"a": 1}}, "function_kwargs have no effect without function"),
        ({"autoscaling": {}, "replicas": 2}, "replicas=2 has no effect with autoscaling"),
        ({"autoscaling": {"min_replicas": 5}}, "min_replicas=5 is above max_replicas=4"),
    ],
)
def test_settings_without_effect_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServiceOptions.model_validate(fields)


def test_built_in_needs_no_process() -> None:
    assert isinstance(open_reward(ServiceOptions()), BuiltIn)
    assert ServiceOptions().rules == rewards.PUBLISHED


def test_the_function_gets_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "import os\n"
        "def seen(inputs):\n"
        "    found = {name: float(name in os.environ) for name in ('MY_TOKEN', 'RAY_AUTH_TOKEN', 'KEPT')}\n"
        "    return [{'overall': found['MY_TOKEN'] + found['RAY_AUTH_TOKEN'], 'kept': found['KEPT']} for _ in inputs]\n"
    )
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret")
    monkeypatch.setenv("KEPT", "1")
    reward = open_reward(ServiceOptions(function=f"{source}:seen", port=8100, token_env="MY_TOKEN"))
    try:
        [scored] = reward.score([Item("", None)])
        assert (scored.reward, scored.terms["kept"]) == (0.0, 1.0)
    finally:
        reward.close()


def test_waiting_for_its_turn_is_bounded(tmp_path: Path) -> None:
    source = tmp_path / "slow.py"
    source.write_text("import time\ndef slow(inputs):\n    time.sleep(3)\n    return [{'overall': 1.0}]\n")
    reward = CustomReward(f"{source}:slow", {}, 30.0, turn_timeout_s=0.2)
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(reward.score, [Item("", None)])
            time.sleep(0.5)
            with pytest.raises(ScoringError, match=r"waited longer than 0\.2 s for its turn"):
                reward.score([Item("", None)])
            assert first.result()[0].reward == 1.0
    finally:
        reward.close()
