"""A Ray cluster of several nodes on this machine: a head with its job server, and worker nodes, each with an address,
a folder and a label of its own. Jobs need the token.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.deploy.local_head import free_ports

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """Where its job server listens, its token, the folder of everything that Ray writes, and node ids by label."""

    address: str
    token: str
    temp: Path
    environment: dict[str, str]
    nodes: dict[str, str] = field(default_factory=dict)

    def submit(self, *entrypoint: str, name: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir .` in the repository; what a terminal shows, and the exit code."""
        flags = ["--submission-id", name, "--working-dir", "."] + ([] if wait else ["--no-wait"])
        return self._job("submit", *flags, "--", *entrypoint, timeout_s=900)

    def stop(self, name: str) -> None:
        """`ray job stop --no-wait`."""
        done = self._job("stop", "--no-wait", name, timeout_s=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def log(self, name: str) -> str:
        """What the job has printed so far."""
        return self.get(f"/api/jobs/{name}/logs")["logs"]

    def status(self, name: str) -> str:
        """Such as RUNNING, SUCCEEDED, FAILED, STOPPED."""
        return self.get(f"/api/jobs/{name}")["status"]

    def get(self, path: str) -> Any:
        """A page of the head's API."""
        answer = httpx.get(f"{self.address}{path}", headers={"Authorization": f"Bearer {self.token}"}, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def actors(self) -> list[dict[str, Any]]:
        """All actors there are and were: class_name, node_id, pid, state."""
        return self.get("/api/v0/actors?limit=1000")["data"]["result"]["result"]

    def calls(self, method: str) -> int:
        """Calls of actors' methods of this name that have begun and not ended."""
        tasks = self.get("/api/v0/tasks?limit=10000")["data"]["result"]["result"]
        open_ones = [task for task in tasks if task["state"] not in ("FINISHED", "FAILED")]
        return sum(task["name"].rpartition(".")[2] == method for task in open_ones)

    def uploaded(self) -> set[str]:
        """What lies at the top of the working folders that jobs brought to the head."""
        found = self.temp.glob("head/session_2*/runtime_resources/working_dir_files/*/*")
        return {path.name for path in found}

    def _job(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        command, *rest = arguments
        return subprocess.run(
            [str(BIN / "ray"), "job", command, "--address", self.address, *rest],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@contextmanager
def local_cluster(cpus: Mapping[str, int], environment: Mapping[str, str]) -> Generator[LocalCluster]:
    """A head without CPUs, and a node with so many CPUs for each label. `environment` is added to every node's."""
    temp = Path(tempfile.mkdtemp(prefix="pv-", dir="/tmp"))  # short: a socket's path has room for 107 characters
    (temp / "token").write_text(secrets.token_hex(32))
    gcs, dashboard, client = free_ports(3)
    own = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(temp / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "PYTHONPATH"}
    made = LocalCluster(
        f"http://127.0.0.1:{dashboard}", (temp / "token").read_text(), temp, {**kept, **own, **environment}
    )
    head = (
        f"--head --port={gcs} --num-cpus=0 --include-dashboard=true --dashboard-port={dashboard} "
        f"--ray-client-server-port={client}"
    )
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_start(made, "head", 0, head))
        _wait_for(made, 1, started)
        for number, (label, count) in enumerate(cpus.items(), start=1):
            join = f"--address={_ip(0)}:{gcs} --num-cpus={count} --labels=pointvg.role={label}"
            started.append(_start(made, label, number, join))
        _wait_for(made, 1 + len(cpus), started)
        for node in _alive(made):
            made.nodes[node["labels"].get("pointvg.role", "head")] = node["node_id"]
        yield made
    finally:
        family = [psutil.Process(one.pid) for one in started if one.poll() is None]
        family += [child for one in family for child in one.children(recursive=True)]
        for one in reversed(started):
            one.terminate()
        for left in psutil.wait_procs(family, timeout=20)[1]:
            left.kill()
        for one in started:
            one.wait(timeout=10)
        shutil.rmtree(temp, ignore_errors=True)


def _ip(number: int) -> str:
    """An address of this machine for every node."""
    return f"127.0.0.{2 + number}"


def _start(cluster: LocalCluster, name: str, number: int, flags: str) -> subprocess.Popen[bytes]:
    own = (
        f"--block --node-ip-address={_ip(number)} --temp-dir={cluster.temp / name} --object-store-memory=100000000 "
        "--min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 --metrics-export-port=0"
    )
    with (cluster.temp / f"{name}.out").open("wb") as log:
        return subprocess.Popen(
            [str(BIN / "ray"), "start", *flags.split(), *own.split()],
            cwd=cluster.temp,
            env=cluster.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _alive(cluster: LocalCluster) -> list[dict[str, Any]]:
    try:
        nodes = cluster.get("/api/v0/nodes?detail=true")["data"]["result"]["result"]
    except (httpx.HTTPError, json.JSONDecodeError):
        return []
    return [node for node in nodes if node["state"] == "ALIVE"]


def _wait_for(cluster: LocalCluster, nodes: int, started: list[subprocess.Popen[bytes]]) -> None:
    """Returns when so many nodes are alive; fails with what they printed if one ends before or it takes too long."""
    deadline = time.monotonic() + 180
    while len(_alive(cluster)) < nodes:
        late = time.monotonic() > deadline or any(one.poll() is not None for one in started)
        assert not late, "\n".join(file.read_text(errors="replace") for file in cluster.temp.glob("*.out"))
        time.sleep(0.5)
