"""Every shipped configuration parses, and the quickstart's paths are those that make train makes."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from schemas.config import SftConfig, TinyConfig, TrainConfig
from schemas.config.file import load
from schemas.config.service import ServiceConfig

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def kind(file: Path) -> type:
    """Which configuration a file is, by its sections."""
    sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "rollout" in sections:
        return TrainConfig
    if "architecture" in sections:
        return TinyConfig
    if "trainer" in sections:
        return SftConfig
    return ServiceConfig


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.name)
def test_it_parses(file: Path) -> None:
    load(kind(file), file)


def test_the_quickstart_uses_every_role() -> None:
    config = load(TrainConfig, ROOT / "configs" / "quickstart.yaml").config
    assert config.uses_reference
    assert config.resources.learner.count == 2
    assert config.algorithm.adaptive is not None
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"pointvg scenes {Path(str(config.data.train_files)).parent}" in made


def test_the_commands_for_a_gpu_parse() -> None:
    """Of docs/clusters.md, which nobody without a GPU can run."""
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8").replace("\\\n", " ")
    shared = re.search(r'ONE="(.*)"', text)
    assert shared
    commands = [shlex.split(line, comments=True) for line in re.findall(r"pointvg train (--config .*\$ONE.*)", text)]
    assert len(commands) == 4
    for _, file, *overrides in commands:
        given = [each for word in overrides for each in (shared[1].split() if word == "$ONE" else [word])]
        resources = load(TrainConfig, ROOT / file, given).config.resources
        assert resources.rollout.gpus
        assert resources.learner.gpus
