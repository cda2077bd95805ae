"""Bounded repetition with growing, jittered pauses."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


class RewardServiceError(RuntimeError):
    """The service refused a request, or could not be reached within the attempts allowed."""


@dataclass(frozen=True, slots=True)
class Retry:
    """At most `attempts` calls, with pauses that double from `backoff_s` up to `longest_s`, each times 0.5 to 1.5.

    >>> [round(Retry(backoff_s=1, longest_s=3).pause(n, jitter=1.0)) for n in range(3)]
    [1, 2, 3]
    """

    attempts: int = 5
    backoff_s: float = 0.5
    longest_s: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")

    def pause(self, failures: int, jitter: float) -> float:
        """Seconds to wait after so many failures before this one."""
        return min(self.longest_s, self.backoff_s * 2**failures) * jitter

    def next_pause(self, failures: int, at_least: float = 0.0) -> float | None:
        """Seconds to wait after so many failures, the last one included; None when no attempt is left.

        `at_least` is what the service asked for; no more than `longest_s` of it is granted.
        """
        if failures >= self.attempts:
            return None
        return max(self.pause(failures - 1, random.uniform(0.5, 1.5)), min(at_least, self.longest_s))

    def rounds(self, sleep: Callable[[float], None]) -> Iterator[int]:
        """Yields the number of each attempt, sleeping in between."""
        for attempt in range(self.attempts):
            if attempt:
                sleep(self.pause(attempt - 1, random.uniform(0.5, 1.5)))
            yield attempt
