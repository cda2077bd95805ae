"""The schemas that editors read are current, and say of files what loading them says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from orchestrator.cli.options import kind_of
from schemas.config.json_schema import KINDS, json_schema

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def read(file: Path) -> tuple[str, dict[str, Any]]:
    """The kind of a file, and its values."""
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    return next(kind for kind, model in KINDS.items() if model is kind_of(values)), values


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shipped_is_current(kind: str) -> None:
    """Else: pointvg config schema KIND --out configs/schemas/KIND.json --overwrite."""
    assert (ROOT / f"configs/schemas/{kind}.json").read_text(encoding="utf-8") == json_schema(kind)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.name)
def test_a_shipped_file_names_its_schema_and_keeps_it(file: Path) -> None:
    kind, values = read(file)
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema=schemas/{kind}.json"
    jsonschema.Draft202012Validator(json.loads(json_schema(kind))).validate(values)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("trainer", "max_stepz", 3),
        ("trainer", "max_steps", "three"),
        ("data", "on_error", "stop"),
        ("rollout", "samples_per_task", 0),
        ("run", "name", "no spaces"),
    ],
)
def test_a_wrong_field_is_refused_by_both(section: str, field: str, value: object) -> None:
    kind, values = read(ROOT / "configs/quickstart.yaml")
    values[section][field] = value
    found = list(jsonschema.Draft202012Validator(json.loads(json_schema(kind))).iter_errors(values))
    assert section in str([list(error.absolute_path) for error in found])
    with pytest.raises(ValidationError):
        KINDS[kind].model_validate(values)


def test_fields_have_the_words_behind_them_in_the_code() -> None:
    run = json.loads(json_schema("train"))["$defs"]["Run"]["properties"]
    assert run["resume"]["description"] == "continue from the last checkpoint when the run folder holds one"
    assert run["grace_s"]["default"] == 25.0
