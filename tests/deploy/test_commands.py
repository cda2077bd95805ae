"""Every command of the manifests is run, as far as it gets without its cluster."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from tests.deploy.manifests import ROOT, containers, groups, only


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    text: str


def run(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """A container's command in a copy of its working directory: configs and the small model, no data.

    The project's own command line runs in this process, which spares the imports; scripts run in one of their own.
    """
    for name in ("configs", "models", "scripts"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(ROOT / name)
    assert words[0] == "python"
    if words[1:3] == ["-m", "orchestrator"]:
        monkeypatch.chdir(folder)
        result = CliRunner().invoke(app, words[3:])
        return Ran(result.exit_code, result.output)
    command = [sys.executable, *words[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return Ran(done.returncode, done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("folder", "missing"), [("train", "model.path='/mnt/pointvg/runs/sft/export'"), ("kind", "data/scenes/train.jsonl")]
)
def test_an_entrypoint_gets_as_far_as_what_is_not_there(
    folder: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(shlex.split(only(folder, "RayJob")["spec"]["entrypoint"]), tmp_path, monkeypatch)
    assert done.code == 2
    assert missing in done.text
    assert "configuration refused" not in done.text


def arguments(document: dict[str, Any], name: str) -> list[str]:
    """The arguments of the container of that name."""
    return next(container["args"] for container in containers(document) if container["name"] == name)


def test_the_scenes_of_the_quickstart_are_made_where_it_looks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [w if w not in ("2400", "128", "512") else "2" for w in arguments(only("kind", "RayJob"), "scenes")]
    done = run(words, tmp_path, monkeypatch)
    assert done.code == 0, done.text
    assert (tmp_path / "data" / "scenes" / "train.jsonl").is_file()


def test_run_folders_are_restored_from_the_bucket_that_they_are_mirrored_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = only("train-object-storage", "RayJob")
    bucket, volume = tmp_path / "bucket", tmp_path / "volume"
    (volume / "runs" / "grpo").mkdir(parents=True)
    (volume / "runs" / "grpo" / "config.yaml").write_text("run: {}\n")
    there = {"$(POINTVG_BUCKET)": bucket.as_uri(), "/mnt/pointvg": str(volume)}

    def words(name: str) -> list[str]:
        found = arguments(document, name)
        for old, new in there.items():
            found = [word.replace(old, new) for word in found]
        return found

    every = words("mirror").index("--every")
    assert run(words("mirror")[:every], tmp_path, monkeypatch).code == 0
    (volume / "runs" / "grpo" / "config.yaml").unlink()
    assert run(words("restore"), tmp_path, monkeypatch).code == 0
    assert (volume / "runs" / "grpo" / "config.yaml").read_text() == "run: {}\n"
    head = groups(document)["head"]
    assert head.ray["name"] == "ray-head"  # the operator takes the first container for Ray's
