"""Seconds spent in each stage of a step, kept outside the code that does the work.

@timed("update")            on a stage's function or generator
clock.lap()                 -> {"rollout": 1.04, "update": 1.31, ..., "step": 2.9}
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


class Clock:
    """Collects seconds by stage until the next lap. One driver, one thread, one clock."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    def add(self, stage: str, seconds: float) -> None:
        """Counts `seconds` for a stage of the current lap."""
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def lap(self) -> dict[str, float]:
        """Seconds by stage since the last lap, with the whole as "step" and what no stage covers as "other"."""
        now = time.perf_counter()
        total = now - self._started
        spent, self._seconds, self._started = self._seconds, {}, now
        return {**spent, "other": total - sum(spent.values()), "step": total}

    def numbers(self) -> dict[str, float]:
        """The lap's seconds as metrics, named "time/STAGE"."""
        return {f"time/{stage}": seconds for stage, seconds in self.lap().items()}


CLOCK = Clock()


def timed(stage: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Counts a function's time for `stage`; of a generator, only the time until each item is there."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def items(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
                iterator = cast("Iterator[Any]", function(*args, **kwargs))
                while True:
                    started = time.perf_counter()
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                    finally:
                        CLOCK.add(stage, time.perf_counter() - started)
                    yield item

            return cast("Callable[P, R]", items)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                CLOCK.add(stage, time.perf_counter() - started)

        return call

    return decorate
