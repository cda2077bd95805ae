"""Copies to storage: what changed and no more, a checkpoint's mark last, and once more when told to stop."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from pyarrow import fs

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "mirror.py"


@pytest.fixture(scope="module")
def mirror() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mirror", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def read(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}


CHECKPOINT = "run/checkpoints/step-000002"


def test_what_changed_is_copied_and_no_more(mirror: ModuleType, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, {"run/metrics.jsonl": "1\n", f"{CHECKPOINT}/complete.json": "{}", f"{CHECKPOINT}/state/a": "weights"})
    write(here, {f"{CHECKPOINT}.partial/state/a": "half"})
    assert mirror.copy(str(here), there.as_uri()) == 3
    assert read(there) == {name: text for name, text in read(here).items() if ".partial" not in name}
    assert mirror.copy(str(here), there.as_uri()) == 0
    write(here, {"run/metrics.jsonl": "1\n2\n"})
    (here / CHECKPOINT / "state" / "a").unlink()
    assert mirror.copy(str(here), there.as_uri()) == 1
    assert read(there)["run/metrics.jsonl"] == "1\n2\n"
    assert f"{CHECKPOINT}/state/a" in read(there)  # nothing is ever deleted


def test_a_file_of_the_same_size_that_is_newer_is_copied(mirror: ModuleType, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, {"a": "old"})
    mirror.copy(str(here), str(there))
    write(here, {"a": "new"})
    later = time.time() + 10
    os.utime(here / "a", (later, later))
    assert mirror.copy(str(here), str(there)) == 1
    assert read(there) == {"a": "new"}


def test_the_mark_of_a_whole_checkpoint_goes_last(
    mirror: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, order = tmp_path / "here", []
    write(here, {f"{CHECKPOINT}/complete.json": "{}", f"{CHECKPOINT}/state/z": "", "run/z": "", "a": ""})
    plain = fs.copy_files

    def noted(source: str, target: str, **more: fs.FileSystem) -> None:
        order.append(source)
        plain(source, target, **more)

    monkeypatch.setattr(mirror.fs, "copy_files", noted)
    mirror.copy(str(here), str(tmp_path / "there"))
    assert len(order) == 4
    assert order[-1].endswith("complete.json")


def test_nothing_to_restore_is_no_error(mirror: ModuleType, tmp_path: Path) -> None:
    assert mirror.copy((tmp_path / "no-run-yet").as_uri(), str(tmp_path / "here")) == 0


def test_told_to_stop_it_copies_once_more(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, {"a": "1"})
    command = [sys.executable, str(SCRIPT), str(here), str(there), "--every", "600"]
    with subprocess.Popen(command, stdout=-1, text=True) as process:
        try:
            assert process.stdout is not None
            assert "1 file(s)" in process.stdout.readline()
            write(here, {"b": "2"})
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    assert read(there) == {"a": "1", "b": "2"}
