"""Scenes for runs that are disturbed."""

import sys
from pathlib import Path

import pytest

from pointing.scenes import write_scenes

sys.path.insert(0, str(Path(__file__).parent))  # training.py


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=48, validation=4, test=4, seed=5)
    return folder
