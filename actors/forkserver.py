"""Starts actors' processes on this machine by fork, from a process that has imported torch, transformers and vLLM.

    raylet --> python forkserver.py default_worker.py ...
                    |  arguments, environment, standard streams
                    v
               server: imports once ----fork---> default_worker.py of Ray, all imports done

A driver starts the server before it reads its data; where there is none, the first process of a node starts it.

Importing takes 8 to 12 s of a core, and a run has seven such processes or more: on two cores that was most of the time
until the first step, and of the time until a lost engine was back. Ray is told through `py_executable` of its runtime
environment to start a worker this way; where no server can be had, the worker starts as it would without.

This file runs as a script before anything is imported: the standard library alone at its top.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

# What actors of any role import and no model's construction can do without.
MODULES = (
    "actors.rollout",
    "actors.vllm_engine",
    "policy.learning.learner",
    "policy.learning.critic",
    "vllm.v1.worker.cpu_worker",
)
IDLE_S = 120.0  # without a child for so long, the server ends
BIND_S = 10.0
IMPORT_S = 40.0  # Ray waits a minute for a worker
READY, AGREED = b"?", b"!"  # nothing is forked for a process that no longer waits
LENGTH = struct.Struct("!I")
SERVER = "POINTVG_FORK_SERVER"  # variable of a worker's environment: the name of the server that is to fork it


@dataclass(frozen=True, slots=True)
class Start:
    """A process to be: its arguments, environment and working folder.

    >>> Start(("default_worker.py", "--node-id=5f"), {"OMP_NUM_THREADS": "1"}, "/tmp").arguments[0]
    'default_worker.py'
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str


def python_executable() -> str:
    """What `py_executable` of a runtime environment is to say."""
    return f"{sys.executable} -S {Path(__file__).resolve()}"


def server_name(variables: Mapping[str, str]) -> str:
    """Of the server of this process, a driver, for actors with these variables: imports may have read them.

    >>> server_name({"OMP_NUM_THREADS": "1"}) == server_name({"OMP_NUM_THREADS": "1"})
    True
    """
    key = hashlib.sha256(json.dumps([sys.executable, *sorted(variables.items())]).encode()).hexdigest()[:16]
    return f"{os.getpid()}-{key}"


def prestart(variables: Mapping[str, str]) -> None:
    """Starts the server, without waiting for it, so that it imports while a driver still reads its data."""
    path = _socket_path(server_name(variables))
    try:
        with _locked(path):
            if not path.exists():
                _start_server(path, {**os.environ, **variables})
    except OSError as error:
        print(f"forkserver: {error}; processes start without it", file=sys.stderr)


# ---- in the process that the raylet starts ----


def start_worker(arguments: Sequence[str]) -> None:
    """Has the server fork a process with these arguments; becomes that process itself where there is none."""
    start = Start(tuple(arguments), dict(os.environ), os.getcwd())
    try:
        if _forked(start, _socket_path(os.environ[SERVER])):
            return
    except OSError as error:
        print(f"forkserver: {error}; starting without it", file=sys.stderr)
    os.execv(sys.executable, [sys.executable, *arguments])


def _forked(start: Start, path: Path) -> bool:
    with _connected(path) as connection:
        message = json.dumps(asdict(start)).encode()
        socket.send_fds(connection, [LENGTH.pack(len(message))], [0, 1, 2])
        connection.sendall(message)
        connection.settimeout(IMPORT_S)
        if connection.recv(1) != READY:  # nothing, where the server could not import or was killed
            return False
        connection.sendall(AGREED)
        return True


def _socket_path(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"pointvg-fork-{os.getuid()}" / name


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None]:
    """Of those that find no server one starts it. Raises PermissionError where others could have put one there."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid() or path.parent.stat().st_mode & 0o077:
        raise PermissionError(f"{path.parent} is open to other users")
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start_server(path: Path, environment: Mapping[str, str]) -> None:
    path.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(path)]
    nothing = subprocess.DEVNULL
    subprocess.Popen(command, env=environment, start_new_session=True, stdin=nothing, stdout=nothing, stderr=nothing)
    deadline = time.monotonic() + BIND_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no server at {path} within {BIND_S:.0f} s")
        time.sleep(0.02)


def _connected(path: Path) -> socket.socket:
    """A connection to the server, which is started if there is none."""
    with _locked(path):
        try:
            return _connect(path)
        except OSError:
            _start_server(path, os.environ)
            return _connect(path)


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


# ---- in the server ----


def serve(path: Path, modules: Sequence[str] = MODULES) -> Start | None:
    """Forks a process for every connection. Returns in each of those what it is to become, None when the server ends.

    It ends with the driver that its name begins with, or when it has had no children for IDLE_S.
    """
    driver = int(path.name.partition("-")[0])
    with socket.socket(socket.AF_UNIX) as listener:
        unheard = path.with_suffix(".new")
        listener.bind(str(unheard))
        listener.listen(64)
        unheard.rename(path)  # whoever sees it can connect
        usable = _imported(modules, driver)
        listener.settimeout(1.0)
        children: set[int] = set()
        used = time.monotonic()
        while _alive(driver) and (children or time.monotonic() - used < IDLE_S):
            children -= {child for child in children if os.waitpid(child, os.WNOHANG)[0]}
            with contextlib.suppress(OSError, ValueError):  # nobody came, or whoever did went away
                connection, _ = listener.accept()
                with connection, _agreed(connection, usable) as (start, streams):
                    child = os.fork()
                    if not child:
                        _take(streams)
                        return start
                    children.add(child)
                    used = time.monotonic()
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)
    return None


def _imported(modules: Sequence[str], driver: int) -> bool:
    """False where one cannot be imported: a process that starts plainly will say why. Stops where the driver ended.

    Ray is hidden meanwhile, which vLLM takes as not installed: its library keeps the variables that it finds when it is
    loaded, such as the raylet's number, and children are of several.
    """
    sys.modules["ray"] = cast("Any", None)
    try:
        for module in modules:
            if _alive(driver):
                importlib.import_module(module)
    except Exception:
        return False
    finally:
        del sys.modules["ray"]
    gc.collect()
    gc.freeze()  # pages of what was imported stay shared with the children
    return True


@contextlib.contextmanager
def _agreed(connection: socket.socket, usable: bool) -> Generator[tuple[Start, list[int]]]:
    """What is asked for, with the caller's streams; raises ConnectionError when nothing is to be forked for it."""
    connection.settimeout(BIND_S)
    length, streams, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
    try:
        message = bytearray()
        while len(message) < LENGTH.unpack(length)[0]:
            message += connection.recv(65536) or _gone()
        if usable:
            connection.sendall(READY)
        if not usable or connection.recv(1) != AGREED:
            _gone()
        yield Start(**json.loads(message)), streams
    finally:
        for stream in streams:
            os.close(stream)


def _gone() -> NoReturn:
    raise ConnectionError("nothing to fork")


def _take(streams: Sequence[int]) -> None:
    """Standard streams as the caller's."""
    for target, stream in enumerate(streams):
        os.dup2(stream, target)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def become(start: Start) -> None:
    """Goes on as the script that the raylet asked for."""
    import numpy as np

    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(start.folder)
    os.environ.clear()
    os.environ.update(start.environment)
    np.random.seed()  # what libraries share: each process its own, as without a fork
    sys.argv = list(start.arguments)
    given = start.environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [str(Path(start.arguments[0]).parent), *(path for path in given if path and path not in sys.path)]
    runpy.run_path(start.arguments[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        # This file's folder is where the script lies, and no place to import from.
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
        asked = serve(Path(sys.argv[2]))
        if asked is not None:
            become(asked)
    else:
        start_worker(sys.argv[1:])
