"""A random small model and a few scenes, made once."""

from pathlib import Path

import pytest

from pointing.scenes import write_scenes
from policy.tiny.model import build_tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny(tmp_path_factory.mktemp("tiny"), seed=0))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=24, validation=6, test=4, seed=5)
    return folder
