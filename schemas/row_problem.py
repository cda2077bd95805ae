"""What is wrong with one field of one row of data: where it stands, what it is, why it cannot be, what to do.

FieldError, raised where a row is read --file and line--> RowProblem, kept and shown
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
"""An error keeps a row from being used: a run would break on it or learn nonsense. A warning does not."""

SHOWN = 60  # characters of a value


def shown(value: object) -> str:
    """A value as messages show it: short, and on one line."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


class FieldError(ValueError):
    """A field of a record cannot be used, in parts. Who knows the record's place makes a RowProblem of it.

    `field` is a path such as "ground_truth.hand_bbox[2]". `value` is as `shown` writes it, "" for one that is absent or
    is said in the reason.

    >>> print(FieldError("images", "holds no image", "give one", "[]"))
    images=[]: holds no image; give one
    """

    def __init__(self, field: str, reason: str, remedy: str, value: str = "") -> None:
        super().__init__(_sentence(field, value, reason, remedy))
        self.field, self.reason, self.remedy, self.value = field, reason, remedy, value

    def __reduce__(self) -> tuple[type[FieldError], tuple[str, str, str, str]]:
        """Its parts: it crosses processes whole."""
        return type(self), (self.field, self.reason, self.remedy, self.value)


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One thing that is wrong with a data file. `line` counts from 1: lines of .jsonl, objects or rows of other files.

    Without a `line` it is about the file as a whole. `value` is as `shown` writes it, or "".

    >>> print(RowProblem("train.jsonl", 3, "images[0]", "'a.png'", "no such file", "check data.image_dir"))
    train.jsonl:3: images[0]='a.png': no such file; check data.image_dir
    """

    file: str
    line: int | None
    field: str
    value: str
    reason: str
    remedy: str
    severity: Severity = "error"

    @classmethod
    def of(cls, error: FieldError, file: str, line: int | None, severity: Severity = "error") -> RowProblem:
        """What a reader of fields refused, with its place."""
        return cls(file, line, error.field, error.value, error.reason, error.remedy, severity)

    @property
    def source(self) -> str:
        """The file and the line, or the file alone."""
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"{self.source}: {_sentence(self.field, self.value, self.reason, self.remedy)}"


def _sentence(field: str, value: str, reason: str, remedy: str) -> str:
    what = f"{field}={value}" if value else field
    return f"{what}: {reason}; {remedy}"
