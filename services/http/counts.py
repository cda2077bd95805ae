"""What the service counts about itself, without saying where the counts go."""

from __future__ import annotations

from typing import Literal, Protocol

Door = Literal["http", "handle"]


class Meter(Protocol):
    """Takes the counts of one process."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """One HTTP request was answered."""
        ...

    def scored(self, door: Door, items: int, seconds: float) -> None:
        """One batch was scored."""
        ...

    def failed(self, door: Door) -> None:
        """The reward of one batch could not be computed."""
        ...


class NoMeter:
    """Counts nothing."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """See Meter."""

    def scored(self, door: Door, items: int, seconds: float) -> None:
        """See Meter."""

    def failed(self, door: Door) -> None:
        """See Meter."""
