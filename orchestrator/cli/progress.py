"""How far a long command is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import typer

EVERY_S = 10.0


@contextmanager
def counted(what: str, total: int, err: bool = False) -> Generator[Callable[[], None]]:
    """Yields what is to be called after each of `total` equal pieces of work. Quick work shows nothing.

    With `err` it shows on stderr, for a command whose output is read by other programs.
    """
    if (sys.stderr if err else sys.stdout).isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(transient=True, console=Console(stderr=err)) as bar:
            task = bar.add_task(f"{what:<12}", total=total or None)
            yield lambda: bar.advance(task)
    else:
        yield _Lines(what, total, err).one_more


class _Lines:
    def __init__(self, what: str, total: int, err: bool) -> None:
        self._what, self._total, self._done, self._err = what, total, 0, err
        self._said = time.monotonic()

    def one_more(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said >= EVERY_S:
            self._said = now
            of = f" of {self._total}" if self._total else ""
            typer.echo(f"{self._what:<12} {self._done}{of}", err=self._err)
