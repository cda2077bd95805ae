"""Copies a folder to or from object storage: new and changed files, checkpoints so that a copy is never half complete.

    python scripts/mirror.py runs s3://bucket/runs --every 60      # keeps copying until SIGTERM, then once more
    python scripts/mirror.py s3://bucket/runs runs                 # once: restores

Either side is a folder, or a URI that Arrow knows (s3://, gs://, file://; credentials from the usual variables).
Nothing is ever deleted: retention is the bucket's business. Folders in the making (*.partial) are left out, and a
checkpoint's complete.json goes last.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from pyarrow import fs

PARTIAL = ".partial"
LAST = "complete.json"


def side(name: str) -> tuple[fs.FileSystem, str]:
    """The file system and path of a folder or URI."""
    if "://" in name:
        return fs.FileSystem.from_uri(name)
    return fs.LocalFileSystem(), str(Path(name).resolve())


def listing(system: fs.FileSystem, root: str) -> dict[str, fs.FileInfo]:
    """Files under root by relative path, without those in the making; {} when there is no root."""
    chosen = fs.FileSelector(root, allow_not_found=True, recursive=True)
    files = {info.path[len(root) :].lstrip("/"): info for info in system.get_file_info(chosen) if info.is_file}
    return {name: info for name, info in files.items() if not any(p.endswith(PARTIAL) for p in name.split("/"))}


def copy(source: str, target: str) -> int:
    """Copies what is not at the target, or is older or of another size there; returns the number of files.

    Raises OSError where a side cannot be reached. A folder that is not there yet has no files.
    """
    from_system, from_root = side(source)
    to_system, to_root = side(target)
    bucket = from_root.partition("/")[0]  # empty for a path of this machine
    if bucket and from_system.get_file_info(bucket).type == fs.FileType.NotFound:
        raise FileNotFoundError(f"{source}: there is no bucket {bucket}, or these credentials do not see it")
    there = listing(to_system, to_root)
    stale = [
        name
        for name, info in listing(from_system, from_root).items()
        if name not in there or there[name].size != info.size or there[name].mtime_ns < info.mtime_ns
    ]
    for name in sorted(stale, key=lambda name: (name.endswith(LAST), name)):
        path = f"{to_root}/{name}"
        to_system.create_dir(path.rpartition("/")[0], recursive=True)
        fs.copy_files(f"{from_root}/{name}", path, source_filesystem=from_system, destination_filesystem=to_system)
    return len(stale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="keep copying; once without it")
    given = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    while True:
        last = stopped.is_set() or given.every is None
        try:
            print(f"mirror: {copy(given.source, given.target)} file(s) to {given.target}", flush=True)
        except (
            OSError
        ) as error:  # a file that was rotated away meanwhile, a bucket out of reach: the next round mends it
            if last:
                sys.exit(f"mirror: {error}")
            print(f"mirror: {error}; again in {given.every:.0f} s", file=sys.stderr, flush=True)
        if last:
            return
        stopped.wait(given.every)


if __name__ == "__main__":
    main()
