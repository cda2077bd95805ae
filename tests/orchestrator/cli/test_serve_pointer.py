"""pointvg serve pointer: what it refuses, and that its replicas answer, come back and end when told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from pointing.scene_layout import SceneOptions
from pointing.scenes import write_scenes

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "configs" / "pointer.yaml"
MODEL = ROOT / "models" / "tiny"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["pointer.port=null"], "pointer.port is not set"),
        (["pointer.host=0.0.0.0"], "token_env is not set"),
        (["pointer.token_env=POINTVG_NOT_SET"], "POINTVG_NOT_SET"),
        (["pointer.max_sample=3"], "did you mean 'max_samples'?"),
        (["pointer.model=configs"], "configs"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(overrides: list[str], words: str) -> None:
    given = [] if any("model" in each for each in overrides) else [f"pointer.model={MODEL}"]
    result = CliRunner().invoke(app, ["serve", "pointer", "--config", str(SHIPPED), *given, *overrides])
    assert result.exit_code == 2
    assert words in result.output
    assert "serving" not in result.output


@contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A service of the shipped model, ready, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "orchestrator",
        "serve",
        "pointer",
        "--config",
        str(SHIPPED),
        "--model",
        str(MODEL),
    ]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, f"pointer.port={port}"], env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            wait_ready(f"http://127.0.0.1:{port}", process)
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def wait_ready(address: str, process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    """Returns when it says that it can answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"it ended with {process.returncode}"
        try:
            if httpx.get(f"{address}/readyz", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"not ready within {seconds:.0f} s")


def replica(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The process that holds the engine."""
    children = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in children if "ServeReplica:pointer" in " ".join(child.cmdline()))


@pytest.mark.slow
@pytest.mark.cluster
def test_it_answers_comes_back_when_its_replica_is_killed_and_ends_when_told_to(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", train=0, validation=0, test=1, seed=5, options=SceneOptions(negative=0.0))
    photo = sorted((tmp_path / "s" / "images").glob("*.png"))[0].read_bytes()
    with serving() as (process, address):
        before = httpx.post(f"{address}/v1/point", files={"image": photo}, timeout=60).json()
        assert len(before["samples"][0]["turns"]) == 2
        headers = {"Accept": "text/event-stream"}
        with httpx.stream("POST", f"{address}/v1/point", files={"image": photo}, headers=headers, timeout=60) as told:
            lines = [line.removeprefix("data: ") for line in told.iter_lines() if line.startswith("data: ")]
        assert json.loads(lines[-1])["answer"]["samples"] == before["samples"]

        lost = replica(process)
        lost.kill()
        lost.wait(30)
        wait_ready(address, process)
        assert replica(process).pid != lost.pid
        again = httpx.post(f"{address}/v1/point", files={"image": photo}, timeout=60).json()
        assert again["samples"] == before["samples"]

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
