"""Files that survive a crash: flushed to disk, named only when whole, and checked by their digests when read again.

write ... -> flush file -> flush folder -> rename -> flush parent        nothing half-written has its final name
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Digest:
    """Size in bytes and blake2b of a file's content.

    >>> Digest(3, "ab").to_json()
    {'bytes': 3, 'blake2b': 'ab'}
    """

    bytes: int
    blake2b: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `Digest(**saved)` reads it."""
        return {"bytes": self.bytes, "blake2b": self.blake2b}

    @classmethod
    def of(cls, file: Path) -> Digest:
        """That of a file as it is on disk."""
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=20))
            return cls(stream.tell(), found.hexdigest())


def flushed(files: Iterable[Path], root: Path) -> dict[str, Digest]:
    """Flushes files to disk; returns their digests by their paths under `root`."""
    found: dict[str, Digest] = {}
    for file in files:
        flush(file)
        found[file.relative_to(root).as_posix()] = Digest.of(file)
    return found


def damage(root: Path, expected: Mapping[str, Digest]) -> list[str]:
    """What is wrong with the files, one reason each; sizes are looked at first, contents only where they agree."""
    reasons: list[str] = []
    for name, digest in expected.items():
        file = root / name
        if not file.is_file():
            reasons.append(f"{name} is missing")
        elif (size := file.stat().st_size) != digest.bytes:
            reasons.append(f"{name} has {size} bytes instead of {digest.bytes}")
    if not reasons:
        changed = [name for name, digest in expected.items() if Digest.of(root / name) != digest]
        reasons = [f"{name} has other content than was written" for name in changed]
    return reasons


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON content with its own digest beside."""
    return {**content, "blake2b": _digest_of(content)}


def is_sealed(content: Any) -> bool:
    """Whether content is as `sealed` made it."""
    if not isinstance(content, dict) or "blake2b" not in content:
        return False
    return content["blake2b"] == _digest_of({key: value for key, value in content.items() if key != "blake2b"})


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=20).hexdigest()


def write_json(file: Path, content: Any) -> None:
    """Writes JSON beside, then renames, so that a file of this name is whole."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def write_text(file: Path, text: str) -> None:
    """Writes beside, then renames: a reader sees the old file or the new one."""
    beside = file.with_name(file.name + ".partial")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)
    flush(file.parent)


def replace_folder(folder: Path, partial: Path) -> None:
    """Renames `partial` to `folder`; what was there is deleted afterwards. See restore_folders for a crash between."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_folders(parent: Path) -> None:
    """Gives folders back their names that a crash within replace_folder left under another."""
    for old in sorted(parent.glob("*.old")):
        folder = old.with_name(old.name.removesuffix(".old"))
        if not folder.exists():
            old.rename(folder)


def flush(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: BaseException) -> str:
    """An error of writing in one line, with what to do where the disk is full.

    >>> explain(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device; free some, or lower checkpoint.keep'
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{cause.strerror}; free some, or lower checkpoint.keep"
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: {error}".strip().split("\n", 1)[0]
