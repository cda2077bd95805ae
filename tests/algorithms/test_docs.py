"""docs/algorithms.md names what exists: its configuration lines are valid and its functions importable."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from algorithms.estimators import ESTIMATORS
from algorithms.kl import KL_ESTIMATORS
from algorithms.losses import LOSSES
from algorithms.reductions import Denominator
from schemas import config

LOSS_FIELDS = {field for defaults in config.LOSS_DEFAULTS.values() for field in defaults}
TEXT = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text()
LINES = re.findall(r"^Config: `(.+)`$", TEXT, re.M)
FUNCTIONS = re.findall(r"^Library: `(.+)`$", TEXT, re.M)


@pytest.mark.parametrize("line", LINES)
def test_configuration_lines_are_valid_and_set_what_they_say(line: str) -> None:
    tree: dict[str, Any] = {}
    pairs = [part.split("=") for part in line.split()]
    for path, text in pairs:
        node = tree
        *parents, leaf = path.removeprefix("algorithm.").split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = yaml.safe_load(text)
    built = config.Algorithm.model_validate(tree)
    for path, text in pairs:
        value: Any = built
        for name in path.removeprefix("algorithm.").split("."):
            value = getattr(value, name)
        assert value == yaml.safe_load(text)


@pytest.mark.parametrize("path", FUNCTIONS)
def test_functions_exist(path: str) -> None:
    module, name = path.rsplit(".", 1)
    assert hasattr(importlib.import_module(module), name)


def test_everything_is_described() -> None:
    assert len(LINES) >= 10
    for name in (*LOSSES, *ESTIMATORS, *KL_ESTIMATORS):
        assert f"={name}" in TEXT or f".{name}`" in TEXT or f"`{name}`" in TEXT, name


def test_the_configuration_offers_what_is_implemented() -> None:
    def choices(record: type[Any], field: str) -> set[str]:
        return set(get_args(record.model_fields[field].annotation))

    assert choices(config.Algorithm, "advantage") == ESTIMATORS.keys()
    assert choices(config.Loss, "name") == LOSSES.keys()
    assert choices(config.Loss, "denominator") == set(get_args(Denominator))
    assert choices(config.Kl, "estimator") == KL_ESTIMATORS.keys()


def test_every_rule_names_what_exists() -> None:
    assert config.NEEDS_GROUPS > config.BY_GROUP
    assert ESTIMATORS.keys() > config.NEEDS_GROUPS | config.DISCOUNTS


def test_every_loss_reads_its_defaults_and_no_others() -> None:
    for name, defaults in config.LOSS_DEFAULTS.items():
        loss = config.Loss(name=name)
        assert {field for field in LOSS_FIELDS if getattr(loss, field) is not None} == {
            field for field, value in defaults.items() if value is not None
        }
