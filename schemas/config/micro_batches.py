"""How many trajectories share one forward pass: a number of rows, or a number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """Limits of one forward pass of one rank; None is no limit. Tokens are those computed: padding counts.

    >>> MicroBatches(rows=2).fill([5, 9, 7])
    [[1, 2], [0]]
    >>> MicroBatches(rows=None, tokens=14, packed=True).fill([5, 9, 7])
    [[1], [2, 0]]
    """

    rows: int | None
    tokens: int | None = None
    packed: bool = False

    def fill(self, lengths: Sequence[int]) -> list[list[int]]:
        """Row numbers of every micro-batch, longest rows first, so that rows of similar length share one.

        A row that is longer than the limit by itself has a micro-batch of its own.
        """
        parts: list[list[int]] = []
        held = 0
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            if parts and self._fits(parts[-1], held, lengths[parts[-1][0]], lengths[row]):
                parts[-1].append(row)
                held += lengths[row]
            else:
                parts.append([row])
                held = lengths[row]
        return parts

    def _fits(self, part: Sequence[int], held: int, longest: int, length: int) -> bool:
        tokens = held + length if self.packed else (len(part) + 1) * longest
        return (self.rows is None or len(part) < self.rows) and (self.tokens is None or tokens <= self.tokens)

    def __str__(self) -> str:
        limits = [(self.rows, "trajectories"), (self.tokens, "tokens")]
        return " and ".join(f"{limit} {unit}" for limit, unit in limits if limit is not None)
