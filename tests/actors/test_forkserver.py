"""Processes of actors by fork: what one is, and that none is lost or made twice when an end of the deal dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray

from actors import forkserver
from actors.group import ActorGroup, Limits
from orchestrator.roles.local_ray import start_local
from schemas.config.resources import Role

ROOT = Path(__file__).parents[2]
TELL = """
import json, os, sys
print(json.dumps([sys.argv, os.getcwd(), os.environ.get("COLOUR"), "colorsys" in sys.modules, os.getppid(),
                  sys.path[0], __name__]))
"""
SERVE = """
import sys
from pathlib import Path
from actors import forkserver
asked = forkserver.serve(Path(sys.argv[1]), sys.argv[2:])
if asked is not None:
    forkserver.become(asked)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "script").mkdir()
    file = tmp_path / "script" / "tell.py"
    file.write_text(TELL)
    return file


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process whose server would listen in a folder of this test."""
    name = f"{os.getpid()}-test"
    return {**os.environ, "TMPDIR": str(tmp_path), "COLOUR": "red", "PYTHONPATH": str(ROOT), forkserver.SERVER: name}


@contextmanager
def server(path: Path, *modules: str) -> Generator[subprocess.Popen[bytes]]:
    path.parent.mkdir(mode=0o700)
    command = [sys.executable, "-c", SERVE, str(path), *modules]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            until(path.exists)
            yield process
        finally:
            process.kill()


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the server of `environment` listens."""
    return tmp_path / f"pointvg-fork-{os.getuid()}" / f"{os.getpid()}-test"


def started(script: Path, environment: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """What a raylet does."""
    command = [*forkserver.python_executable().split(), str(script), "--one", "two words"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=True)


def test_a_forked_process_is_what_it_would_have_been_but_for_its_imports(
    script: Path, environment: dict[str, str], tmp_path: Path, path: Path
) -> None:
    with server(path, "colorsys") as process:
        told = json.loads(started(script, environment, tmp_path).stdout)
        assert told == [
            [str(script), "--one", "two words"],
            str(tmp_path),
            "red",
            True,
            process.pid,
            str(script.parent),
            "__main__",
        ]


def test_a_process_starts_plainly_where_the_server_cannot_import(
    script: Path, environment: dict[str, str], tmp_path: Path, path: Path
) -> None:
    with server(path, "time", "no_such_module"):
        done = started(script, environment, tmp_path)
        argv, _, colour, imported, parent, *_ = json.loads(done.stdout)
        assert argv == [str(script), "--one", "two words"]
        assert (colour, imported, parent) == ("red", False, os.getpid())


def test_a_folder_that_others_may_write_to_is_not_used(
    script: Path, environment: dict[str, str], tmp_path: Path, path: Path
) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    done = started(script, environment, tmp_path)
    assert "is open to other users; starting without it" in done.stderr
    assert json.loads(done.stdout)[4] == os.getpid()


def test_nothing_is_forked_for_a_caller_that_has_given_up_and_the_server_serves_on(
    script: Path, environment: dict[str, str], tmp_path: Path, path: Path
) -> None:
    left = tmp_path / "left"
    script.write_text(f"open({str(left)!r}, 'w')\n")
    with server(path) as process:
        message = json.dumps({"arguments": [str(script)], "environment": {}, "folder": str(tmp_path)}).encode()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            socket.send_fds(caller, [forkserver.LENGTH.pack(len(message))], [0, 1, 2])
            caller.sendall(message)
            assert caller.recv(1) == forkserver.READY
        time.sleep(0.5)
        assert not left.exists()
        assert not psutil.Process(process.pid).children()
        started(script, environment, tmp_path)
        until(left.exists)


def test_the_server_ends_with_the_driver_and_leaves_nothing(path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as driver, server(path.with_name(f"{driver.pid}-test")) as process:
        driver.kill()
        driver.wait()
        assert process.wait(timeout=10) == 0
    assert list(path.parent.iterdir()) == []


class Told:
    """An actor that tells of its process."""

    def told(self) -> tuple[int, int, bool]:
        return os.getpid(), os.getppid(), "vllm.v1.engine.llm_engine" in sys.modules


@contextmanager
def group_of_two() -> Generator[ActorGroup]:
    start_local(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        limits = Limits(start_s=120, call_s=120, silence_s=120)
        yield ActorGroup.spawn("rollout", Told, Role(count=2), 1, arguments=lambda _: (), limits=limits)
    finally:
        ray.shutdown()


@pytest.mark.cluster
def test_actors_are_children_of_one_server_those_that_come_back_too_and_those_of_the_next_cluster() -> None:
    with group_of_two() as group:
        (first, server, imported), (second, also, _) = group.call(Told.told)
        assert server == also
        assert imported
        assert "forkserver.py" in " ".join(psutil.Process(server).cmdline())
        os.kill(first, signal.SIGKILL)
        group.restart([0])
        (again, parent, _), (kept, _, _) = group.call(Told.told)
        assert again != first
        assert kept == second
        assert parent == server
    until(lambda: not psutil.pid_exists(again))
    with group_of_two() as group:  # whose raylet is another
        assert {parent for _, parent, _ in group.call(Told.told)} == {server}


@pytest.mark.cluster
def test_actors_end_with_their_raylet_though_it_is_not_their_parent() -> None:
    with group_of_two() as group:
        pids = [pid for pid, _, _ in group.call(Told.told)]
        (raylet,) = [one for one in psutil.Process().children(recursive=True) if one.name() == "raylet"]
        raylet.kill()
        raylet.wait()
        until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
