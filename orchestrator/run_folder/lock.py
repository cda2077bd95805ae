"""One driver to a run folder: a second one is refused, and told who has it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.run_folder.folder import RunExistsError

FILE = "driver.lock"


@contextmanager
def locked(root: Path) -> Generator[None]:
    """Holds the folder's lock. The system gives it back when this process ends, however it ends.

    The file names the owner for people; what counts is the lock on it (flock), so one that a dead driver left behind is
    simply taken over. Raises RunExistsError naming host, process and start of a driver that is at work.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunExistsError(
                f"{root} is in use by {_owner(root / FILE)}; wait for it or stop it, or set run.name=..."
            ) from None
        except OSError as error:
            raise RunExistsError(
                f"{root} cannot be locked ({error.strerror}): its file system has no locks; put run.folder elsewhere"
            ) from None
        file.truncate(0)
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        file.write(json.dumps(owner) + "\n")
        file.flush()
        yield


def _owner(file: Path) -> str:
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, started {owner['started']}"
    except (ValueError, KeyError):  # it has the lock and is about to write its name
        return "a driver that is just starting"
