"""What a run has recorded beyond the step that it goes on from: set aside, so that no step is recorded twice.

metrics.jsonl, samples/, pictures/, rollouts/ --later than the checkpoint--> aside.<n>/       nothing is deleted
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from files.crash_safe import write_text

METRICS = "metrics.jsonl"
_FOLDERS = ("samples", "pictures", "rollouts")  # one file after so many steps


def set_aside(root: Path, start: int) -> list[dict[str, Any]]:
    """Moves what is recorded of a run beyond its first `start` steps to a new folder in `root`; returns what stays.

    A validation after `start` steps stays: it is not made again. Half a line, as a killed run leaves, goes too.
    """
    kept, moved, records = list[str](), list[str](), list[dict[str, Any]]()
    for line in _lines(root / METRICS):
        record = _read(line)
        if record is not None and _stays(record, start):
            kept.append(line)
            records.append(record)
        else:
            moved.append(line)
    files = [file for name in _FOLDERS for file in sorted((root / name).glob("step-*")) if _step(file) > start]
    if not moved and not files:
        return records
    aside = next(path for n in range(1, 10**6) if not (path := root / f"aside.{n}").exists())
    aside.mkdir()
    if moved:
        write_text(aside / METRICS, "".join(moved))  # first: a crash in between leaves them in both
        write_text(root / METRICS, "".join(kept))
    for file in files:
        (aside / file.parent.name).mkdir(exist_ok=True)
        file.rename(aside / file.parent.name / file.name)
    print(f"set aside    {len(moved)} records, {len(files)} files of later steps: {aside}", flush=True)
    return records


def _lines(file: Path) -> list[str]:
    return [f"{line}\n" for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _read(line: str) -> dict[str, Any] | None:
    """The record; None of half a line."""
    try:
        return cast("dict[str, Any]", json.loads(line))
    except ValueError:
        return None


def _stays(record: dict[str, Any], start: int) -> bool:
    """Step n of training is the one after n steps."""
    return record["step"] < start + (record["kind"] == "validation")


def _step(file: Path) -> int:
    """
    >>> _step(Path("samples/step-000004.parquet"))
    4
    """
    return int(file.stem.removeprefix("step-"))
