"""pointvg serve reward: what it refuses, and that a stop signal ends it when what was begun is answered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.cli.serve import refuse_busy
from schemas.config.file import load
from schemas.config.service import ServiceConfig
from schemas.scoring import ScoreItem
from services.http.retry import Retry
from services.reward.client import RewardClient

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "configs" / "reward.yaml"


def test_the_shipped_configuration_and_a_training_one_can_be_served() -> None:
    options = load(ServiceConfig, SHIPPED).config.reward
    assert (options.port, options.loopback, options.rules.negative_max) == (8100, True, 10)
    assert options.autoscaling is not None
    training = load(ServiceConfig, ROOT / "configs" / "quickstart.yaml", ["reward.port=8100"]).config.reward
    assert (training.port, training.rules.negative_max) == (8100, 10)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["reward.port=null"], "reward.port is not set"),
        (["reward.host=0.0.0.0"], "token_env is not set"),
        (["reward.token_env=POINTVG_NOT_SET"], "POINTVG_NOT_SET"),
        (["reward.prot=3"], "did you mean 'port'?"),
        (["reward.function=mine.py:f"], "rules are those of the built-in reward"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(overrides: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["serve", "reward", "--config", str(SHIPPED), *overrides])
    assert result.exit_code == 2
    assert words in result.output


def test_a_busy_port_is_refused_before_ray_starts() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Serve's proxy does, which would share it
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", "reward", "--config", str(SHIPPED), f"reward.port={port}"])
        assert result.exit_code == 2
        assert f"reward.port={port}: 127.0.0.1:{port} cannot be listened on" in result.output
        assert "serving" not in result.output
    refuse_busy("127.0.0.1", port)


@contextmanager
def serving(folder: Path, *overrides: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service in a process group of its own, ready, and its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "orchestrator", "serve", "reward", "--config", str(SHIPPED), f"reward.port={port}"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, *overrides], cwd=folder, env=environment, stdout=-1, text=True) as process:
        try:
            with RewardClient(f"http://127.0.0.1:{port}", retry=Retry(attempts=60, longest_s=1.0)) as client:
                client.wait_ready()
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.cluster
def test_it_serves_until_told_to_stop(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import time\ndef f(inputs):\n    time.sleep(2)\n    return [{'overall': 7} for _ in inputs]\n"
    )
    with serving(tmp_path, "reward.rules={}", "reward.function=mine.py:f") as (process, address):
        assert process.stdout is not None
        assert address in process.stdout.readline()
        assert "/metrics" in process.stdout.readline()
        with ThreadPoolExecutor(1) as pool, RewardClient(address) as client:
            begun = pool.submit(client.score, [ScoreItem(response="")])
            time.sleep(1.0)
            process.send_signal(signal.SIGTERM)
            assert begun.result(timeout=30)[0].reward == 7.0
        assert process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.cluster
def test_an_idle_one_does_not_wait_for_what_is_not_there(tmp_path: Path) -> None:
    """Serve's own grace period would be 30 s."""
    with serving(tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
