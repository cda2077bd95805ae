"""What Ray's plain tasks run: tables between the object store and files, and a copy of an object.

A worker that runs such a task imports this module first. It is small on purpose: a task beside a run must not have to
import torch, which takes a core for seconds and half a gibibyte.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from files.crash_safe import Digest, damage

T = TypeVar("T")


def write_tables(folder: str, *tables: pa.Table) -> dict[str, Digest]:
    """Writes Arrow IPC files 0.arrow, 1.arrow, ... into a folder: all or none, so a full disk has its room back.

    Returns their digests by name.
    """
    names = [f"{number}.arrow" for number in range(len(tables))]
    if not Path(folder).is_dir():  # it is there when this is a retry
        partial = Path(f"{folder}.partial")
        try:
            partial.mkdir(parents=True, exist_ok=True)
            for name, table in zip(names, tables, strict=True):
                with pa.OSFile(str(partial / name), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return {name: Digest.of(Path(folder, name)) for name in names}


def read_table(file: str, digest: Digest) -> tuple[str, pa.Table | None]:
    """What is wrong with an Arrow IPC file, "" if it is what was written, and its table."""
    path = Path(file)
    if wrong := damage(path.parent, {path.name: digest}):
        return f"{path.parent}: {'; '.join(wrong)}", None
    with pa.memory_map(file) as source:
        return "", pa.ipc.open_file(source).read_all()


def same(value: T) -> tuple[bool, T]:
    """True, and the value: of two references to them, the first is there when the second is on the task's node."""
    return True, value
