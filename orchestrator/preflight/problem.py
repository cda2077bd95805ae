"""What a check before a run finds: a field, its value, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason not to start.

    >>> print(Problem("model.path", "m", "no config.json there; give the folder of a checkpoint"))
    model.path='m': no config.json there; give the folder of a checkpoint
    """

    field: str
    value: Any
    detail: str

    def __str__(self) -> str:
        return f"{self.field}={self.value!r}: {self.detail}"
