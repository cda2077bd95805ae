"""Scenes for runs that are disturbed, and the table of how long each part took to come back."""

from pathlib import Path

import pytest

from pointing.scenes import write_scenes
from tests.faults.training import Row, Training, config, table

ROWS: list[Row] = []


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=48, validation=4, test=4, seed=5)
    return folder


@pytest.fixture(scope="session")
def calm(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The run that is left alone."""
    with Training(config(tmp_path_factory.mktemp("calm"), scenes)) as run:
        run.finish()
    return run


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """What was measured; printed at the end."""
    return ROWS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        terminalreporter.section("what was hurt, and how long it took")
        terminalreporter.write_line(table(sorted(ROWS)))
