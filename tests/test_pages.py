"""Figures that pages state are those of the result files: read from both, to the digits that the page gives."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def result(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def start(setting: str) -> float:
    """Mean object IoU of the start over the test scenes that have an object."""
    values = result("learning/test-start.json")[setting]["object mIoU"].values()
    return fmean(value for value in values if value is not None)


def plain_over_adaptive(setting: str) -> float:
    """Reward of GRPO less that of its adaptive weighting, paired by seed and task."""
    runs = {
        (method, seed): result(f"methods/{method}-{seed}.json")["test"][setting]["reward"]
        for method in ("grpo", "adaptive")
        for seed in (1, 2, 3)
    }
    return fmean(
        fmean(runs["grpo", seed][task] - value for task, value in runs["adaptive", seed].items()) for seed in (1, 2, 3)
    )


def rate(name: str) -> Callable[[], float]:
    return lambda: result("rollout.json")[name]


def seconds(stage: str) -> Callable[[], float]:
    return lambda: result("step.json")["median_s"][stage]


def growth(role: str) -> Callable[[], float]:
    """KiB a step."""
    return lambda: result("soak.json")["roles"][role]["uss"]["per_step"] / 1024


# Page, the sentence with its figures in groups, and where each comes from.
CLAIMS: list[tuple[str, str, list[Callable[[], float]]]] = [
    (
        "docs/small_model.md",
        r"object mIoU there is (0\.\d+) at temperature 1 and (0\.\d+) greedily",
        [lambda: start("temperature 1"), lambda: start("greedy")],
    ),
    (
        "docs/algorithms.md",
        r"\(\+(\.\d+) to \+(\.\d+) held-out\s+reward, 3 seeds\)",
        [lambda: plain_over_adaptive("temperature 1"), lambda: plain_over_adaptive("validation")],
    ),
    (
        "benchmarks/README.md",
        r"(0\.\d+) of the bare loop: ([\d,]+) against ([\d,]+) tokens/s",
        [rate("ratio"), rate("player_tokens_per_s"), rate("bare_tokens_per_s")],
    ),
    ("benchmarks/README.md", r"\| rollout \| ([\d.]+) \|", [seconds("rollout")]),
    ("benchmarks/README.md", r"\| update \| ([\d.]+) \|", [seconds("update")]),
    ("benchmarks/README.md", r"\| publish \| ([\d.]+) \|", [seconds("publish")]),
    ("benchmarks/README.md", r"\| step \| ([\d.]+) \|", [seconds("step")]),
    ("benchmarks/soak.md", r"\| LearnerActor \| (-?[\d.]+) ±", [growth("LearnerActor")]),
    ("benchmarks/soak.md", r"\| ReferenceActor \| (-?[\d.]+) ±", [growth("ReferenceActor")]),
]


@pytest.mark.parametrize(("page", "pattern", "sources"), CLAIMS, ids=lambda value: str(value)[:48])
def test_a_page_says_what_was_measured(page: str, pattern: str, sources: list[Callable[[], float]]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(pattern, text)
    assert found, f"{page} no longer has: {pattern}"
    for given, source in zip(found.groups(), sources, strict=True):
        plain = given.replace(",", "")
        measured = source()
        decimals = len(plain.partition(".")[2])
        # Whole thousands may be rounded to tens.
        unit = 10.0**-decimals if decimals or measured < 1000 else 10.0
        assert math.isclose(float(plain), measured, abs_tol=0.5 * unit + 1e-9), (page, given, measured)


def test_every_comparison_that_the_page_of_benchmarks_sums_up_is_that_of_the_page() -> None:
    """PPO, once said to be no worse than the adaptive weighting."""
    sentence = next(
        line for line in (ROOT / "docs/comparison.md").read_text().splitlines() if line.startswith("- `ppo`")
    )
    worse = sentence.count("(-")
    summary = (ROOT / "benchmarks/README.md").read_text()
    assert worse == 1
    assert "PPO is worse in one column of six" in summary
