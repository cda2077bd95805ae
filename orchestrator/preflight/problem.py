"""What a check before a run finds: problems, each a setting with its value, why it cannot be and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.config.file import ConfigError, Origins, SettingError


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason not to start. `source` is where the value stands ("file:line", or "command line"), if that is known.

    >>> print(Problem("model.path", "m", "no config.json there", "give a checkpoint's folder", "grpo.yaml:6"))
    grpo.yaml:6: model.path='m': no config.json there; give a checkpoint's folder
    """

    field: str
    value: Any
    reason: str
    remedy: str
    source: str | None = None

    @classmethod
    def of(cls, error: SettingError) -> Problem:
        """The problem that a part of the system refuses a setting for."""
        return cls(error.field, error.value, error.reason, error.remedy)

    def at(self, origins: Origins) -> Problem:
        """The same with where its setting comes from; a part of a section that was set as a whole, with the section."""
        keys = tuple(self.field.split("."))
        where = (origins.get(keys[:length]) for length in range(len(keys), 0, -1))
        return replace(self, source=self.source or next((place for place in where if place), None))

    def __str__(self) -> str:
        where = f"{self.source}: " if self.source else ""
        return f"{where}{self.field}={self.value!r}: {self.reason}; {self.remedy}"


class Refused(ConfigError):
    """A run that cannot be started; one line for each of its problems."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def refuse(problems: Iterable[Problem]) -> None:
    """Raises Refused if there are any."""
    found = tuple(problems)
    if found:
        raise Refused(found)


@dataclass(frozen=True, slots=True)
class Findings:
    """What one check, or several together, have found: problems, lines for people, what could not be looked at.

    >>> (Findings(notes=("model  7 M parameters",)) + Findings(unchecked=("machines",))).unchecked
    ('machines',)
    """

    problems: tuple[Problem, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())
    unchecked: tuple[str, ...] = field(default=())

    def __add__(self, other: Findings) -> Findings:
        return Findings(self.problems + other.problems, self.notes + other.notes, self.unchecked + other.unchecked)
