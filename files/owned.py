"""Writes folders and files without losing what is there: only what a list says we wrote is ever replaced.

    new files --> .NAME.partial-x/new --> their digests in written.list --> NAME
    what was there: listed and unchanged  --> deleted once the new ones have their names
                    not listed            --> stays; of a name that is needed: refused
                    listed, but changed   --> refused

A crash leaves the old folder or the new one, and at worst a hidden folder beside, which the next writing settles.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.crash_safe import Digest, flush, is_sealed, sealed

LIST = "written.list"  # JSON; no such suffix, so that a folder of data files is still one
_NEW, _OLD, _LOCK = "new", "old", "lock"
_SHOWN = 3


class ExistsError(FileExistsError):
    """Something is there that would be replaced, or mixed with what is written; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A folder's files by their paths under it: `known` as we wrote them, `changed` since, `foreign` from elsewhere.

    `by` and `about` are what the list says of their making.

    >>> Contents(by="", about={}, known=("a",), changed=(), foreign=("b", "c")).empty
    False
    """

    by: str
    about: Mapping[str, Any]
    known: tuple[str, ...]
    changed: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """No file at all."""
        return not (self.known or self.changed or self.foreign)

    @property
    def whole(self) -> bool:
        """As it was written, and nothing else."""
        return bool(self.known) and not (self.changed or self.foreign)


@dataclass(frozen=True, slots=True)
class _List:
    """written.list: what wrote, what it said of that, and the digest of every file."""

    by: str
    about: Mapping[str, Any]
    files: Mapping[str, Digest]


def contents(folder: Path) -> Contents:
    """What a folder holds, told apart by its list and by digests. One that is not there holds nothing."""
    listed = _read_list(folder)
    digests = {} if listed is None else listed.files
    known: list[str] = []
    changed: list[str] = []
    foreign: list[str] = []
    for name in sorted(_files(folder)):
        if name == LIST and listed is not None:
            continue
        if name not in digests or not _is_plain(folder / name):
            foreign.append(name)
        elif (folder / name).stat().st_size == digests[name].bytes and Digest.of(folder / name) == digests[name]:
            known.append(name)
        else:
            changed.append(name)
    by, about = ("", {}) if listed is None else (listed.by, listed.about)
    return Contents(by, about, tuple(known), tuple(changed), tuple(foreign))


def holds(folder: str | Path, about: Mapping[str, Any]) -> bool:
    """Whether a folder holds exactly what was written with this `about`: every file, unchanged, and no other."""
    folder = Path(folder)
    listed = _read_list(folder)
    if listed is None or listed.about != about:
        return False
    found = contents(folder)
    return found.whole and len(found.known) == len(listed.files)


def refuse_folder(folder: str | Path, *, overwrite: bool, names: Iterable[str] = ()) -> None:
    """Raises ExistsError where writing to `folder` could lose or mix something; call it before long work.

    Args:
        folder: where files are to be written; not there or empty is always fine.
        overwrite: our own files may be replaced, and others may lie beside them.
        names: paths under the folder that are known to be written. A file of that name that is not ours is refused.
    """
    folder = _place(folder)
    found = contents(folder)
    if found.empty:
        return
    if not overwrite and found.by and not found.foreign:
        raise ExistsError(f"{folder} holds what {found.by} wrote; add --overwrite to replace it, or name another")
    if not overwrite:
        there = _some((*found.foreign, *found.changed, *found.known))
        raise ExistsError(f"{folder} is not empty ({there}); name another, or add --overwrite to write beside these")
    if found.changed:
        raise ExistsError(
            f"{folder}: changed since {found.by} wrote it, and would be replaced: {_some(found.changed)}; move it away"
        )
    in_the_way = sorted({*found.foreign} & {*names})
    if in_the_way:
        raise ExistsError(
            f"{folder}: not written by this program, and would be replaced: {_some(in_the_way)}; move it away"
        )


@contextmanager
def writing_folder(
    folder: str | Path, by: str, *, overwrite: bool, about: Mapping[str, Any] | None = None
) -> Generator[Path]:
    """Yields an empty folder; what is written into it takes the place of `folder` when the block ends without error.

    Files get the permissions that new files have for this process. Raises ExistsError as refuse_folder does.

    Args:
        folder: made with its parents; a link is followed.
        by: what writes, for people: "pointvg scenes".
        overwrite: see refuse_folder.
        about: JSON that says what is written; `holds` compares it.
    """
    folder = _place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _settle(folder)
    refuse_folder(folder, overwrite=overwrite)
    with _staging(folder) as staging:
        fresh = staging / _NEW
        fresh.mkdir()
        yield fresh
        _seal(fresh, by, about or {}, mode=stat.S_IMODE((staging / _LOCK).stat().st_mode))
        refuse_folder(folder, overwrite=overwrite, names=[*_files(fresh)])  # it may have changed meanwhile
        _swap(folder, staging)


def refuse_file(file: str | Path, *, overwrite: bool) -> None:
    """Raises ExistsError where `file` is a folder, or is there and may not be replaced; call it before long work."""
    file = Path(file)
    if file.is_dir():
        raise ExistsError(f"{file} is a folder; name a file")
    if not overwrite and os.path.lexists(file):
        raise ExistsError(f"{file} exists; add --overwrite to replace it, or name another file")


def write_file(file: str | Path, content: str | bytes, *, overwrite: bool) -> None:
    """Writes a file, whole or not at all; its folder is made. One that holds the same already is left alone.

    Raises ExistsError as refuse_file does, even if the file came up meanwhile, and OSError.
    """
    file = Path(file)
    data = content.encode("utf-8") if isinstance(content, str) else content
    if file.is_file() and file.read_bytes() == data:
        return
    with writing_file(file, overwrite=overwrite) as beside:
        beside.write_bytes(data)


@contextmanager
def writing_file(file: str | Path, *, overwrite: bool) -> Generator[Path]:
    """Yields a path with the file's suffix; what the block writes there takes the place of `file` when it ends without
    error. The folder is made.

    Raises ExistsError as refuse_file does, even if the file came up meanwhile, and OSError.
    """
    refuse_file(file, overwrite=overwrite)
    file = Path(file).resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.stem}.{secrets.token_hex(4)}.partial{file.suffix}")
    try:
        yield beside
        flush(beside)
        if overwrite:
            beside.replace(file)
        else:
            _name_once(beside, file)
        flush(file.parent)
    finally:
        beside.unlink(missing_ok=True)


def _name_once(beside: Path, file: Path) -> None:
    """Renames, unless the name is taken."""
    try:
        os.link(beside, file)
    except FileExistsError:
        raise ExistsError(f"{file} exists; add --overwrite to replace it, or name another file") from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        beside.rename(file)  # a file system without hard links


def _place(folder: str | Path) -> Path:
    """Where the folder really is. Raises ExistsError for a file, or for a folder that cannot change places."""
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise ExistsError(f"{folder} is a file; name a folder")
    if folder.is_dir() and os.path.ismount(folder):
        raise ExistsError(f"{folder} is a mount point, which cannot be written at once; name a folder inside it")
    return folder


def _files(folder: Path) -> Iterator[str]:
    """Paths under a folder of all that is not a folder; links are not followed."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*files, *links):
            yield Path(parent, name).relative_to(folder).as_posix()


def _is_plain(file: Path) -> bool:
    return stat.S_ISREG(file.lstat().st_mode)


def _read_list(folder: Path) -> _List | None:
    """The folder's list; None where there is none that we wrote."""
    try:
        found: Any = json.loads((folder / LIST).read_text(encoding="utf-8"))
        if is_sealed(found):
            return _List(found["by"], found["about"], {name: Digest(**saved) for name, saved in found["files"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def _seal(folder: Path, by: str, about: Mapping[str, Any], mode: int) -> None:
    """Gives every file its permissions, flushes it, and writes the list."""
    digests: dict[str, Any] = {}
    for name in sorted(_files(folder)):
        (folder / name).chmod(mode)
        flush(folder / name)
        digests[name] = Digest.of(folder / name).to_json()
    text = json.dumps(sealed({"by": by, "about": dict(about), "files": digests}), indent=2)
    (folder / LIST).write_text(text + "\n", encoding="utf-8")
    for path in (folder / LIST, *(path for path in folder.rglob("*") if path.is_dir()), folder):
        flush(path)


def _swap(folder: Path, staging: Path) -> None:
    """Gives the new folder its name, then clears the old one of all but what is not ours, which moves over."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists():
        folder.rename(staging / _OLD)
        flush(folder.parent)
    (staging / _NEW).rename(folder)
    flush(folder.parent)
    _clear(staging / _OLD, folder)


def _clear(old: Path, folder: Path) -> None:
    """Moves what is not ours from an old folder to the new one and deletes the rest. What has no free place stays."""
    if not old.is_dir():
        return
    found = contents(old)
    for name in (*found.foreign, *found.changed):
        if not os.path.lexists(folder / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (old / name).rename(folder / name)
    for name in (*found.known, *([LIST] if found.by else [])):
        (old / name).unlink()
    for parent, _, _ in os.walk(old, topdown=False):
        if not os.listdir(parent):
            os.rmdir(parent)


@contextmanager
def _staging(folder: Path) -> Generator[Path]:
    """A hidden folder beside, held by a lock that ends with this process; removed with what we wrote in it."""
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        with (staging / _LOCK).open("x", encoding="utf-8") as lock:
            with suppress(OSError):  # a file system without locks: what a crash leaves there is then not settled
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield staging
    finally:
        if (staging / _OLD).is_dir() and not folder.exists():
            (staging / _OLD).rename(folder)
        _remove(staging)


def _settle(folder: Path) -> None:
    """Ends what a crash cut off: gives the old folder its name back, or moves over what was not ours in it."""
    for staging in folder.parent.glob(f".{folder.name}.partial-*"):
        try:
            lock = (staging / _LOCK).open("r+", encoding="utf-8")
        except OSError:
            continue  # not made by us
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # somebody is writing
            if (staging / _OLD).is_dir() and not folder.exists():
                (staging / _OLD).rename(folder)
            _clear(staging / _OLD, folder)
            _remove(staging)


def _remove(staging: Path) -> None:
    """Deletes the hidden folder, unless the old folder still lies in it with files that are not ours."""
    shutil.rmtree(staging / _NEW, ignore_errors=True)
    if not (staging / _OLD).exists():
        (staging / _LOCK).unlink(missing_ok=True)
        staging.rmdir()


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
