"""Stopping on request: SIGTERM (which `ray job stop` and Kubernetes send) or Ctrl-C saves and ends, soon.

    signal --waiting for rollouts or scores?--> Stopped is raised there: nothing of this step has been learnt yet
           '--learning? -----------------------> at the next such wait, when the step is done
           '--`grace_s` later -----------------> GraceOver is raised, wherever the driver is

What the driver waits in is marked by @interruptible, as what it measures is by @timed. At those places the learner and
the place in the data belong together, so a checkpoint made there continues exactly.

The handlers themselves raise KeyboardInterrupt, the one exception that ends a wait of Ray's (2.60): after any other one
ray.wait goes on, and in the end hides it in a SystemError. It becomes Stopped or GraceOver where the wait was entered.
"""

from __future__ import annotations

import functools
import inspect
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

AGAIN_S = 1.0  # a signal this soon after the first is not a second request
P = ParamSpec("P")
R = TypeVar("R")


class Stopped(Exception):
    """The run was asked to end, and has nothing left to do but say so.

    `exit_code` is 128 + the signal's number, as shells report it: 143 for SIGTERM, 130 for Ctrl-C.
    """

    def __init__(self, number: int, outcome: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}" + (f": {outcome}" if outcome else ""))
        self.number = number
        self.exit_code = 128 + number

    def after(self, outcome: str) -> Stopped:
        """The same with what became of it."""
        return Stopped(self.number, outcome)


class GraceOver(Stopped):
    """There was no time left to save."""


class Stop:
    """Whether this process was asked to stop. One driver, one main thread, one of these."""

    def __init__(self) -> None:
        self._asked: int | None = None
        self._waiting = False
        self._reason: Stopped | None = None
        self._note: Callable[[], None] = lambda: None

    @contextmanager
    def heeded(self, grace_s: float, note: Callable[[], None] = lambda: None) -> Generator[None]:
        """Heeds signals inside; `note` is called when the first comes. Enter it after Ray is up: Ray sets its own."""
        self._asked, self._waiting, self._reason, self._note, self._grace_s = None, False, None, note, grace_s
        handlers = {signal.SIGTERM: self._ask, signal.SIGINT: self._ask, signal.SIGALRM: self._late}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            with self._explained():
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._asked = None

    def check(self) -> None:
        """Raises Stopped if a signal came."""
        if self._asked is not None:
            raise Stopped(self._asked)

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Inside, a signal raises Stopped at once; one that came before raises it on entering."""
        with self._explained():
            self._waiting = True
            try:
                self.check()
                yield
            finally:
                self._waiting = False

    @contextmanager
    def _explained(self) -> Generator[None]:
        """The reason in place of the KeyboardInterrupt that a handler raised for it."""
        try:
            yield
        except KeyboardInterrupt:
            if self._reason is None:
                raise
            raise self._reason from None

    def _interrupt(self, reason: Stopped | None) -> NoReturn:
        self._reason = reason
        raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Generator[None]:
        """Inside, within a wait too, a signal only leaves its note: what was begun is finished. Raises after it."""
        waiting, self._waiting = self._waiting, False
        yield
        self._waiting = waiting
        if waiting:
            self.check()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None:
            if time.monotonic() - self._asked_at < AGAIN_S:
                return  # the same request: `timeout` and terminals signal a process and then its group
            self._interrupt(None)  # asked twice: at once, and without a checkpoint
        self._asked, self._asked_at = number, time.monotonic()
        print(f"{signal.Signals(number).name}: saving, then ending, within {self._grace_s:.0f} s", flush=True)
        signal.setitimer(signal.ITIMER_REAL, self._grace_s)
        self._note()
        if self._waiting:
            self._interrupt(Stopped(number))

    def _late(self, number: int, frame: FrameType | None) -> None:
        assert self._asked is not None
        late = f"no checkpoint within run.grace_s={self._grace_s:g}; the one before is the last"
        self._interrupt(GraceOver(self._asked, late))


STOP = Stop()


def interruptible(function: Callable[P, R]) -> Callable[P, R]:
    """Marks a function in which the driver may be stopped; of a generator, the time until each item is there."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def items(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
            iterator = cast("Iterator[Any]", function(*args, **kwargs))
            while True:
                with STOP.waiting():
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item

        return cast("Callable[P, R]", items)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with STOP.waiting():
            return function(*args, **kwargs)

    return call
