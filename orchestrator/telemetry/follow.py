"""Shows what another process logs: the driver of stage 1 follows rank 0's metrics file."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.telemetry.metrics import Screen

_EVERY_S = 0.5


@contextmanager
def followed(metrics: Path, screen: Screen) -> Generator[None]:
    """Within the block, every record that is appended to a metrics file is shown; all of them when it ends."""
    follower = _Follower(metrics, screen)
    thread = threading.Thread(target=follower.run, name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        follower.done.set()
        thread.join()
        screen.close()


class _Follower:
    """Shows each record once, those that were there before not at all; a file that was written anew is read anew."""

    def __init__(self, metrics: Path, screen: Screen) -> None:
        self.done = threading.Event()
        self._metrics = metrics
        self._screen = screen
        self._file: int | None = None  # the inode of what was read so far
        self._read = 0
        self._seen: set[tuple[str, int]] = set()
        self._look(lambda record: None)

    def run(self) -> None:
        """Looks again and again until told to end."""
        while not self.done.wait(_EVERY_S):
            self._look(self._show)
        self._look(self._show)

    def _look(self, show: Callable[[dict[str, Any]], None]) -> None:
        if not self._metrics.is_file():
            return
        with self._metrics.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._file:
                self._file, self._read = inode, 0  # what will be made again was set aside
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for record in map(json.loads, whole.splitlines()):
            if (record["kind"], record["step"]) not in self._seen:
                self._seen.add((record["kind"], record["step"]))
                show(record)

    def _show(self, record: dict[str, Any]) -> None:
        if record["kind"] == "train":
            numbers = {key: value for key, value in record.items() if key not in ("kind", "step", "time")}
            self._screen.step(record["step"], numbers)
        else:
            self._screen.say(f"validation at step {record['step']}: loss {record['loss']:.4f} on held-out transcripts")
