"""Starts a Ray cluster on this machine, again if its node does not come up."""

from __future__ import annotations

import sys
from typing import Any

import psutil
import ray

STARTS = 3


def start_local(**options: Any) -> None:
    """`ray.init` for a cluster of this process's own; `options` as there.

    Ray gives a new node 30 s to register and then raises a bare Exception. On a machine that is short of time, or for a
    node that dies on its way up, a second start helps; what the first one left would hold memory and ports until this
    process ends.

    Raises:
        ValueError: wrong options; not tried again.
        Exception: whatever else `ray.init` raised when it failed for the third time.
    """
    for left in reversed(range(STARTS)):
        before = set(psutil.Process().children(recursive=True))
        try:
            ray.init(**options)
            return
        except ValueError:
            raise
        except Exception as error:
            _end(set(psutil.Process().children(recursive=True)) - before)
            if not left:
                raise
            print(f"Ray did not start ({str(error).splitlines()[0]}); starting it again", file=sys.stderr, flush=True)


def _end(processes: set[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(list(processes), timeout=10)
