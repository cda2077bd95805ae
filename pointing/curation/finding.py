"""What a check of data files has to say: a problem of a row, with the kind of it for those who count or filter."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from schemas.row_problem import RowProblem

Kind = Literal[
    "file",  # cannot be read at all
    "row",  # refused by the reader of rows, as a run would
    "duplicate",  # says again what an earlier row said
    "contradiction",  # says something else of the same image and question
    "leak",  # the same image, or the same id, in two splits
    "id",  # names two rows
    "image",  # turned by its metadata, or of a shape that no model takes
    "ray",
    "finger",
    "box",
    "name",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem and its kind.

    >>> found = Finding("row", RowProblem("a.jsonl", 3, "images", "", "holds no image", "give one"))
    >>> print(found)
    error    a.jsonl:3: images: holds no image; give one
    """

    kind: Kind
    problem: RowProblem

    def __str__(self) -> str:
        return f"{self.problem.severity:<8} {self.problem}"

    def to_json(self) -> str:
        """One line for machines: severity, kind, file, line, field, value, reason, remedy."""
        parts = asdict(self.problem)
        severity = parts.pop("severity")
        return json.dumps({"severity": severity, "kind": self.kind, **parts}, ensure_ascii=False)
