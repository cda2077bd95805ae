"""Sampler and learner agree on every sampled token, for all three families: before and after a weight update, at
temperature 1 and 0.9, under top_p and top_k, with two turns and two images, larger than the
checkpoint's own bounds. Real vLLM, a process per family."""

import re
from typing import Any

import pytest

from tests.actors.scripts import report_of

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", params=FAMILIES)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    temporary = tmp_path_factory.mktemp("t")
    return report_of("parity.py", request.param, folder, TMPDIR=str(temporary))


@pytest.mark.parametrize("when", ["temperature 1", "temperature 0.9", "after update"])
def test_logprobs_agree(report: dict[str, Any], when: str) -> None:
    assert report[when] < 1e-4


@pytest.mark.parametrize("truncation", ["top_k 20", "top_p 0.8"])
def test_truncated_sampling_is_the_learner_s_distribution_over_the_mass_it_keeps(
    report: dict[str, Any], truncation: str
) -> None:
    found = report[truncation]
    assert found["share within 1e-4"] > 0.99
    assert found["kept"] < 0.95  # otherwise nothing was truncated
    assert found["ratio"] == pytest.approx(found["kept"], abs=1e-3)  # what the mismatch correction multiplies by


def test_the_update_reached_the_engine(report: dict[str, Any]) -> None:
    assert report["after update, old weights"] > 0.1
    assert report["after update, version"] == 1


@pytest.mark.parametrize("reset", ["reset_prefix_cache", "reset_encoder_cache"])
def test_each_cache_reset_is_needed(report: dict[str, Any], reset: str) -> None:
    assert report[f"without {reset}"] > 1e-2


def test_a_prompt_that_the_engine_expands_otherwise_ends_the_run(report: dict[str, Any]) -> None:
    assert re.search(r"the engine made \d+ tokens of a prompt that is \d+ to the learner", report["expanded otherwise"])


def test_no_turn_waits_for_the_turns_of_other_samples(report: dict[str, Any]) -> None:
    turns = report["turns"]
    assert turns["second"] >= 5
    assert turns["waited"] == 0
    assert turns["overtook"] > 0


def test_the_mask_covers_exactly_the_sampled_tokens(report: dict[str, Any]) -> None:
    facts = report["facts"]
    assert facts["mask"] == facts["sampled"] == facts["turn_lengths"]
    assert facts["two_images"] == facts["two_turns"] >= 5
    assert facts["forbidden_sampled"] == 0
    assert facts["versions"] == 1


def test_an_engine_that_is_killed_would_leave_no_file_behind(report: dict[str, Any]) -> None:
    assert report["temporary files"] == []
