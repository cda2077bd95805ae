"""Runs pip, says in a few lines what it is at, and keeps all that it says in a log."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

# One line for every package that an index on the disk has nothing of: no fault.
NOISE = re.compile(r"WARNING: Location '.*' is ignored: it is neither a file nor a directory")
PASSED_ON = re.compile(r"(WARNING|ERROR|CRITICAL): ")
LOOKED_UP = re.compile(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)|Processing \S*/([A-Za-z0-9_.]+)-\d")
DOWNLOADED = re.compile(r"\s*Downloading (?:\S*/)?(\w+-[^-\s]+)\S*\.(?:whl|gz)\S* \((.*)\)")
INSTALLING = "Installing collected packages: "
SHOW_EVERY_S = 10.0  # where the output is no terminal
LAST_LINES = 20


class PipFailed(Exception):
    """pip ended with an error; the text holds its last lines."""


@dataclass(slots=True)
class Heard:
    """What pip has said so far."""

    looked_up: set[str] = field(default_factory=set)
    at: str = ""
    installing: int = 0
    passed_on: set[str] = field(default_factory=set)

    def hear(self, line: str) -> str | None:
        """Takes one line in. Returns it where a person should see it as it is: an error, or a warning heard first.

        >>> heard = Heard()
        >>> heard.hear("  Downloading torch-2.13.0-cp311-cp311-linux_x86_64.whl (191.8 MB)")
        >>> heard.at
        'torch-2.13.0 (191.8 MB)'
        >>> heard.hear("ERROR: No matching distribution found for torch==2.13.0")
        'ERROR: No matching distribution found for torch==2.13.0'
        """
        if found := LOOKED_UP.match(line):
            self.looked_up.add((found[1] or found[2]).lower().replace("_", "-"))
        elif found := DOWNLOADED.match(line):
            self.at = f"{found[1]} ({found[2]})"
        elif line.startswith(INSTALLING):
            self.installing = line.removeprefix(INSTALLING).count(",") + 1
        elif PASSED_ON.match(line) and not NOISE.match(line) and line not in self.passed_on:
            self.passed_on.add(line)
            return line
        return None

    def so_far(self, done: int) -> str:
        """How far pip is, given how many packages more there are than before.

        >>> Heard({"torch", "ray"}, "torch-2.13.0 (191.8 MB)").so_far(0)
        'resolving: 2 packages, at torch-2.13.0 (191.8 MB)'
        >>> Heard({"torch", "ray"}, "", 2).so_far(1)
        'installing: 1 of 2 packages'
        """
        if self.installing:
            return f"installing: {min(max(done, 0), self.installing)} of {self.installing} packages"
        return f"resolving: {len(self.looked_up)} packages" + (f", at {self.at}" if self.at else "")

    def result(self) -> str:
        """What pip has done.

        >>> Heard({"torch", "ray"}, "", 1).result(), Heard({"torch"}).result()
        ('2 packages resolved, 1 installed', '1 packages resolved, none to install')
        """
        return f"{len(self.looked_up)} packages resolved, {self.installing or 'none to install'}" + (
            " installed" if self.installing else ""
        )


class Teller:
    """Lines for a person: some stay, some stand only until the next where the output is a terminal."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.out = out
        self.clock = clock
        self.terminal = out.isatty()
        self.last = clock()

    def tell(self, text: str) -> None:
        """A line that stays."""
        self.out.write(f"\r\x1b[K{text}\n" if self.terminal else f"{text}\n")
        self.out.flush()
        self.last = self.clock()

    def now(self, text: str) -> None:
        """How far it is: rewritten in place on a terminal, a line every `SHOW_EVERY_S` seconds elsewhere."""
        if self.terminal:
            self.out.write(f"\r\x1b[K{text[: os.get_terminal_size(self.out.fileno()).columns - 1]}")
            self.out.flush()
        elif self.clock() - self.last >= SHOW_EVERY_S:
            self.tell(text)


def lines_of(process: subprocess.Popen[str], wait_s: float) -> Iterator[str]:
    """The lines of a process as they come, and an empty one whenever none came for `wait_s` seconds."""
    waiting: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            waiting.put(line.rstrip("\n"))
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = waiting.get(timeout=wait_s)
        except queue.Empty:
            yield ""
            continue
        if line is None:
            return
        yield line


def installed() -> int:
    """How many packages this environment has."""
    return sum(1 for _ in Path(sysconfig.get_paths()["purelib"]).glob("*.dist-info"))


def pip(teller: Teller, log: Path, *arguments: str) -> Heard:
    """Runs `pip *arguments`, adding what it says to the log.

    Raises PipFailed with the last lines where it does not end well.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    heard, started, before, last = Heard(), time.monotonic(), installed(), deque[str](maxlen=LAST_LINES)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    )
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ pip {' '.join(arguments)}\n")
            for line in lines_of(process, 0.2):
                if line:
                    file.write(line + "\n")
                    if not NOISE.match(line):
                        last.append(line)
                    if passed_on := heard.hear(line):
                        teller.tell(f"  {passed_on}")
                if heard.looked_up:
                    teller.now(f"  {heard.so_far(installed() - before)}, {time.monotonic() - started:.0f} s")
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.wait():
        raise PipFailed("\n".join(last))
    if heard.looked_up:
        teller.tell(f"  {heard.result()}, {time.monotonic() - started:.0f} s")
    return heard
