"""Rows that must stay together, and the side that each group of them goes to. On disk, as Places is.

rows --keys (image digests, a field's value)--> groups: rows that share a key, or share one with a row that does
     --order by seed--> each to the side that lacks most
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from pointing.curation.places import CACHE_KIB


@dataclass(frozen=True, slots=True)
class SideCount:
    """What a side got.

    >>> SideCount("test", rows=10, groups=4).rows
    10
    """

    name: str
    rows: int
    groups: int


class Groups:
    """Rows by what they share. A context manager; nothing of it is left on disk.

    A group is named by its smallest key, so groups and sides do not depend on the order of the rows.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        for command in (
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE parents (key BLOB PRIMARY KEY, parent BLOB) WITHOUT ROWID",
            "CREATE TABLE members (number INTEGER PRIMARY KEY, key BLOB)",
            "CREATE TABLE groups (key BLOB PRIMARY KEY, size INTEGER, turn BLOB, side TEXT) WITHOUT ROWID",
        ):
            self._database.execute(command)
        self._rows = 0

    def __enter__(self) -> Groups:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add(self, keys: Sequence[bytes]) -> None:
        """The next row, which has one key at least; all of them are one group from now on."""
        roots = sorted({self._root(key) for key in keys})
        for root in roots[1:]:
            self._database.execute("UPDATE parents SET parent = ? WHERE key = ?", (roots[0], root))
        self._database.execute("INSERT INTO members VALUES (?, ?)", (self._rows, roots[0]))
        self._rows += 1

    def _root(self, key: bytes) -> bytes:
        """The smallest key of its group. The keys on the way are made to point there at once the next time."""
        passed: list[bytes] = []
        while True:
            row = self._database.execute("SELECT parent FROM parents WHERE key = ?", (key,)).fetchone()
            if row is None:
                self._database.execute("INSERT INTO parents VALUES (?, ?)", (key, key))
                break
            if row[0] == key:
                break
            passed.append(key)
            key = row[0]
        self._database.executemany("UPDATE parents SET parent = ? WHERE key = ?", [(key, each) for each in passed[:-1]])
        return key

    def deal(self, shares: Mapping[str, float], seed: int) -> tuple[SideCount, ...]:
        """Gives every group a side, in an order that `seed` decides: the one whose rows are furthest below its share.

        So each side has its share of the rows, but for less than the largest group. `shares` add up to 1.
        """
        self._name(seed)
        rows, groups = dict.fromkeys(shares, 0), dict.fromkeys(shares, 0)
        for key, size in self._in_turn():
            side = max(shares, key=lambda name: (shares[name] * self._rows - rows[name]) / shares[name])
            rows[side] += size
            groups[side] += 1
            self._database.execute("UPDATE groups SET side = ? WHERE key = ?", (side, key))
        return tuple(SideCount(name, rows[name], groups[name]) for name in shares)

    def _name(self, seed: int) -> None:
        """Gives every row the name of its group, and every group its size and its turn."""
        for number in range(self._rows):
            (key,) = self._database.execute("SELECT key FROM members WHERE number = ?", (number,)).fetchone()
            root = self._root(key)
            turn = hashlib.blake2b(seed.to_bytes(16, "big") + root, digest_size=16).digest()
            self._database.execute(
                "INSERT INTO groups VALUES (?, 1, ?, '') ON CONFLICT (key) DO UPDATE SET size = size + 1", (root, turn)
            )
            self._database.execute("UPDATE members SET key = ? WHERE number = ?", (root, number))

    def _in_turn(self) -> Iterator[tuple[bytes, int]]:
        """Every group with its size, by its turn; some at a time, since they are written to meanwhile."""
        self._database.execute("CREATE INDEX IF NOT EXISTS turns ON groups (turn)")
        turn = b""
        query = "SELECT turn, key, size FROM groups WHERE turn > ? ORDER BY turn LIMIT 1000"
        while some := self._database.execute(query, (turn,)).fetchall():
            for _, key, size in some:
                yield key, size
            turn = some[-1][0]

    def sides(self) -> Iterator[str]:
        """The side of each row, in the order in which rows were added; after `deal`."""
        query = "SELECT side FROM members JOIN groups ON groups.key = members.key ORDER BY number"
        for (side,) in self._database.execute(query):
            yield side
