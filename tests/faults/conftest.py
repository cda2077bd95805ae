"""Scenes for runs that are disturbed, and the table of how long each part took to come back."""

import sys
from pathlib import Path

import pytest

from pointing.scenes import write_scenes

sys.path.insert(0, str(Path(__file__).parent))  # training.py

from training import table

ROWS: list[tuple[str, str, str, float | None]] = []


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=48, validation=4, test=4, seed=5)
    return folder


@pytest.fixture(scope="session")
def rows() -> list[tuple[str, str, str, float | None]]:
    """What was measured; printed at the end."""
    return ROWS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        terminalreporter.section("from detection until it was back")
        terminalreporter.write_line(table(sorted(ROWS)))
