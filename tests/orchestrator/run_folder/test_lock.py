"""One driver to a run folder."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from orchestrator.run_folder.folder import RunExistsError
from orchestrator.run_folder.lock import FILE, locked


def holder(root: Path) -> int:
    """A process that holds the folder's lock until it is killed."""
    reader, told = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(root):
            os.write(told, b"1")
            time.sleep(600)
            os._exit(1)
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    os.close(told)
    return child


def test_a_second_driver_is_refused_and_told_who_is_first_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    first = holder(tmp_path)
    try:
        with pytest.raises(RunExistsError, match=rf"in use by process {first} on .*, started 2\d\d\d-"):
            locked(tmp_path).__enter__()
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    assert json.loads((tmp_path / FILE).read_text())["pid"] == first  # it left its name behind
    with locked(tmp_path):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


def test_two_folders_have_a_lock_each(tmp_path: Path) -> None:
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        pass
