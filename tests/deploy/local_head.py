"""A Ray head on this machine, started from a manifest the way the operator starts its pod: parameters, environment,
working directory and token. What KubeRay itself adds, it does not.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.deploy.manifests import ROOT, Group


@dataclass(frozen=True, slots=True)
class Head:
    """Where it listens and what its processes and clients have in their environment."""

    folder: Path
    environment: dict[str, str]
    dashboard_port: int
    agent_port: int
    metrics_port: int

    @property
    def address(self) -> str:
        """Of the dashboard, for `ray job` and `serve`."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def shell(self, command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Runs a line in a shell, as the operator's submitter does."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def metrics(self) -> str:
        """The Prometheus page."""
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=20).text


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    held = [socket.socket() for _ in range(number)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


@contextmanager
def started(group: Group, folder: Path, values: dict[str, str]) -> Generator[Head]:
    """The head group's Ray, in `folder` with the image's configs, models and scripts.

    `values` are those of the environment variables that come from secrets; rayStartParams win over what is passed here
    for the sake of the machine: free ports, and metrics reported every second.
    """
    for name in ("configs", "models", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    gcs, dashboard, agent, metrics, client = free_ports(5)
    own = {
        "port": str(gcs),
        "dashboard-port": str(dashboard),
        "dashboard-agent-listen-port": str(agent),
        "metrics-export-port": str(metrics),
        "ray-client-server-port": str(client),
        "node-ip-address": "127.0.0.1",
        "system-config": '{"metrics_report_interval_ms": 1000}',
    }
    environment = {
        **os.environ,
        **{v["name"]: v.get("value") or values[v["name"]] for v in group.ray.get("env", [])},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    ray = shutil.which("ray", path=environment["PATH"])
    assert ray is not None
    parameters = [f"--{key}={value}" for key, value in {**own, **group.spec["rayStartParams"]}.items()]
    labels = [f"--labels={k}={v}" for k, v in group.spec.get("labels", {}).items()]
    head = Head(folder, environment, dashboard, agent, metrics)
    # A folder of its own, with a short name for its sockets: in its usual one Ray notes the last head, and whoever then
    # calls ray.init() joins that.
    temporary = tempfile.mkdtemp(prefix="ray-")
    with (folder / "ray.log").open("w") as log:
        process = subprocess.Popen(
            [ray, "start", "--head", "--block", f"--temp-dir={temporary}", *parameters, *labels],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_alive(head, process, group.ray["livenessProbe"]["httpGet"]["path"])
        yield head
    finally:
        _stop(process)
        shutil.rmtree(temporary, ignore_errors=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends Ray's processes: asked first, then made to, as a pod's are."""
    if process.poll() is None:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        for left in psutil.wait_procs(family, timeout=10)[1]:
            left.kill()
        process.wait(timeout=30)


def _wait_until_alive(head: Head, process: subprocess.Popen[bytes], path: str) -> None:
    """Asks what the liveness probe asks, without a token."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, (head.folder / "ray.log").read_text()
        try:
            if httpx.get(f"http://127.0.0.1:{head.agent_port}{path}", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise TimeoutError((head.folder / "ray.log").read_text())
