"""Adapters from the learner to the real engine: what travels, what it changes, and what is refused."""

from typing import Any

import pytest

from tests.actors.scripts import report_of

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return report_of("lora.py", tmp_path_factory.mktemp("lora"))


@pytest.mark.parametrize("when", ["before", "after", "after another"])
def test_sampler_and_learner_agree(report: dict[str, Any], when: str) -> None:
    assert report[when] < 1e-4


def test_the_adapters_reached_the_sampler(report: dict[str, Any]) -> None:
    assert report["after, without adapters"] > 0.1


def test_nothing_but_the_adapters_travels(report: dict[str, Any]) -> None:
    scales = report["sent"] - report["adapters"]  # a number for each adapted weight
    assert 0 < scales < report["adapters"] / 100
    assert report["sent"] < report["whole"] / 10


def test_the_merged_bits_do_not_depend_on_what_was_merged_before(report: dict[str, Any]) -> None:
    assert report["same bits again"]


def test_an_engine_refuses_an_order_for_another_version_than_it_holds(report: dict[str, Any]) -> None:
    assert report["refused before"] == "RuntimeError: asked to sample with version 1, the engine holds 0"
    assert report["refused after"] == "RuntimeError: asked to sample with version 0, the engine holds 1"


def test_adapters_of_another_model_are_refused_and_the_engine_goes_on_as_it_was(report: dict[str, Any]) -> None:
    assert "no weight model.odd.weight; adapters of another model came" in report["stranger"]
    assert report["after a stranger"] < 1e-4
