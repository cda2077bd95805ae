"""Shows what another process logs: the driver of stage 1 follows rank 0's metrics file."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
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
    def __init__(self, metrics: Path, screen: Screen) -> None:
        self.done = threading.Event()
        self._metrics = metrics
        self._screen = screen
        self._read = metrics.stat().st_size if metrics.is_file() else 0

    def run(self) -> None:
        """Looks again and again until told to end."""
        while not self.done.wait(_EVERY_S):
            self._look()
        self._look()

    def _look(self) -> None:
        if not self._metrics.is_file():
            return
        with self._metrics.open("rb") as file:
            if file.seek(0, 2) < self._read:
                self._read = 0  # what was made again is set aside, and the file is shorter
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._show(json.loads(line))

    def _show(self, record: dict[str, Any]) -> None:
        if record["kind"] == "train":
            self._screen.step(
                record["step"], {key: record[key] for key in record if key not in ("kind", "step", "time")}
            )
        else:
            self._screen.say(f"validation at step {record['step']}: loss {record['loss']:.4f} on held-out transcripts")
