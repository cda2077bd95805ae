"""Two Ray nodes on this machine, one of which may die."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

QUICK = {  # a node that does not answer is given up after 6 s, not after a minute
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


@contextmanager
def two_nodes() -> Generator[dict[str, str]]:
    """A head with room for everything and a doomed node with room for one process; what a driver's environment needs.

    Objects of any size go through the nodes' object stores, as those of real images do.
    """
    ray = str(Path(sys.executable).with_name("ray"))
    # Short, for its sockets, and not Ray's usual one, where it notes the last head for whoever calls ray.init().
    temporary = tempfile.mkdtemp(prefix="ray-")
    common = {**os.environ, **QUICK, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    common |= {"RAY_max_direct_call_object_size": "1000", "PYTHONPATH": str(Path(__file__).parents[2])}
    common.pop("RAY_ADDRESS", None)
    started: list[subprocess.Popen[bytes]] = []

    def start(log: Path, *arguments: str, **environment: str) -> Path:
        with log.open("w") as file:
            command = [ray, "start", "--block", "--object-store-memory=268435456", *arguments]
            started.append(subprocess.Popen(command, env=common | environment, stdout=file, stderr=subprocess.STDOUT))
        return log

    try:
        head = start(
            Path(temporary, "head.log"),
            "--head",
            "--port=0",
            "--num-cpus=12",
            "--include-dashboard=false",
            f"--temp-dir={temporary}/ray",
        )
        address = _said(head, r"--address='([^']+)'")
        own = Path(temporary, "tmp")  # as on a machine of its own: what is there is not shared
        own.mkdir()
        doomed = start(
            Path(temporary, "doomed.log"), f"--address={address}", "--num-cpus=1", DOOMED_NODE="1", TMPDIR=str(own)
        )
        _said(doomed, r"(Ray runtime started)")  # a run that is placed earlier would be on the head alone
        environment = {name: common[name] for name in ("RAY_AUTH_MODE", "RAY_max_direct_call_object_size", *QUICK)}
        yield environment | {"RAY_ADDRESS": address}
    finally:
        for process in started:
            _end(process)
        shutil.rmtree(temporary, ignore_errors=True)


def _said(log: Path, what: str) -> str:
    """The group of a pattern, once it is in the log."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if found := re.search(what, log.read_text()):
            return found.group(1)
        time.sleep(0.2)
    raise TimeoutError(log.read_text())


def _end(process: subprocess.Popen[bytes]) -> None:
    """The command and every process of its node, stopped ones too."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    for left in psutil.wait_procs(family, timeout=10)[1]:
        left.kill()
    process.kill()
    process.wait()
