"""Where an image, a question or an id was met first. On disk, so that files of any size can be gone through."""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, cast

CACHE_KIB = 32 * 1024  # of pages that are held in memory
What = Literal["image", "question", "id"]


@dataclass(frozen=True, slots=True)
class RowPlace:
    """A row: the split that it belongs to, its file and its line. `said` is a digest of what it says, or b"".

    >>> str(RowPlace("train", "train.jsonl", 7))
    'train.jsonl:7'
    """

    split: str
    file: str
    line: int
    said: bytes = b""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Places:
    """The first place of each key in each split. A context manager; nothing of it is left on disk."""

    def __init__(self) -> None:
        # A database without a name is SQLite's own temporary file, which goes when it is closed.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE places (what TEXT, key BLOB, split TEXT, file TEXT, line INTEGER, said BLOB,"
            " PRIMARY KEY (what, key, split)) WITHOUT ROWID"
        )

    def __enter__(self) -> Places:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def note(self, what: What, key: bytes, place: RowPlace) -> None:
        """Keeps a place, unless its split has one for this key."""
        values = (what, key, place.split, place.file, place.line, place.said)
        self._database.execute("INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?, ?, ?)", values)

    def within(self, what: What, key: bytes, split: str) -> RowPlace | None:
        """The first place of a key in one split."""
        return self._one("split = ?", what, key, split)

    def elsewhere(self, what: What, key: bytes, split: str) -> RowPlace | None:
        """A place of a key in any other split."""
        return self._one("split != ?", what, key, split)

    def _one(self, condition: str, what: What, key: bytes, split: str) -> RowPlace | None:
        query = f"SELECT split, file, line, said FROM places WHERE what = ? AND key = ? AND {condition} LIMIT 1"
        row = self._database.execute(query, (what, key, split)).fetchone()
        return None if row is None else RowPlace(*cast("tuple[str, str, int, bytes]", row))


def key_of(*parts: str | bytes) -> bytes:
    """16 bytes that name a sequence of texts or bytes: BLAKE2b of each part with its length before it."""
    whole = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        whole.update(len(raw).to_bytes(8, "big") + raw)
    return whole.digest()


def file_digest(path: Path) -> bytes:
    """16 bytes that name a file by its content, as `drawing.digest` does in hex. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()
