"""Writes rows one at a time, in the format of the file that they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 64  # rows of a Parquet file that are held; each may hold images
NOTHING = pa.schema([])


class RowWriter:
    """A context that writes rows to a file: Parquet with the schema of `like` where that is Parquet, or else JSONL.

    `file` says where it is written, with the suffix of its format. `added` are columns that `like` has not, or has of
    another type.
    """

    def __init__(self, file: Path, like: Path, added: pa.Schema = NOTHING) -> None:
        self._rows: list[Mapping[str, Any]] = []
        self._schema = _with(pq.read_schema(like), added) if like.suffix == ".parquet" else None
        if self._schema is None:
            self.file = file.with_suffix(".jsonl")
            self._lines = self.file.open("w", encoding="utf-8")
        else:
            self.file = file.with_suffix(".parquet")
            self._table = pq.ParquetWriter(self.file, self._schema)

    def __enter__(self) -> RowWriter:
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row."""
        if self._schema is None:
            self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            return
        self._rows.append(row)
        if len(self._rows) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._table.write_table(pa.Table.from_pylist(list(map(dict, self._rows)), schema=self._schema))
            self._rows.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._schema is None:
            self._lines.close()
        else:
            self._flush()
            self._table.close()


def _with(schema: pa.Schema, added: pa.Schema) -> pa.Schema:
    for field in added:
        at = schema.get_field_index(field.name)
        schema = schema.append(field) if at < 0 else schema.set(at, field)
    return schema.remove_metadata()  # what other libraries keep there is of the columns as they were
