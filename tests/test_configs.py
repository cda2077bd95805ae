"""Every shipped configuration parses, and the quickstart's paths are those that make train makes."""

from pathlib import Path

import pytest
import yaml

from schemas.config import SftConfig, TinyConfig, TrainConfig
from schemas.config_file import load
from schemas.service import ServiceConfig

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
    assert config.resources.learner_ranks == 2
    assert config.algorithm.adaptive is not None
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"pointvg scenes {Path(str(config.data.train_files)).parent}" in made
