"""The Arrow tables that stages hand to one another, and the check at every entry.

    rollout actor --ROLLOUT, IMAGES--> reward    --SCORES-----> assemble --TRAINING--> learner
                                   |-> reference --REFERENCE-/           \\-CRITIC----> critic
                                   \\-> critic    --VALUES----/

A stage returns only its own columns, keyed by `trajectory_id`. Ragged columns are lists; padding and packing happen in
policy/network/collate.py alone. Images are losslessly encoded bytes, once per group, in a table of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from schemas.scoring import SCORE_TERMS

_tokens = pa.list_(pa.int32())
_floats = pa.list_(pa.float32())
_grid = pa.list_(pa.int32(), 3)


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


ROLLOUT = _schema(
    ("trajectory_id", pa.string(), False),
    ("group_id", pa.string(), False),
    ("task_id", pa.string(), False),
    ("sample", pa.int32(), False),
    ("kind", pa.string(), False),  # "sample", or "greedy" (a baseline that is not trained on)
    ("token_ids", _tokens, False),  # the learner's view: vision placeholders expanded
    ("mask", pa.list_(pa.int8()), False),  # 1 on exactly the sampled ids
    ("behaviour_logprobs", _floats, False),  # the sampler's own, 0 where mask is 0
    ("image_digests", pa.list_(pa.string()), False),  # in the order of their placeholders
    ("image_grids", pa.list_(_grid), False),  # (t, h, w) in patches
    ("turn_texts", pa.list_(pa.string()), False),
    ("turn_lengths", pa.list_(pa.int32()), False),  # sampled tokens of each turn
    ("turn_versions", pa.list_(pa.int32()), False),  # policy version that sampled each turn
    ("ended_by", pa.string(), False),
    ("reply", pa.string(), False),  # the turns joined: what is scored
    ("ground_truth", pa.string(), False),  # JSON, pixels of the original image; "none" for a negative
    ("frame", pa.string(), False),  # "pixels" (of the seen image) or "thousandths"
    ("original_size", pa.list_(pa.int32(), 2), False),  # (width, height) of the first image
    ("seen_size", pa.list_(pa.int32(), 2), False),
)

IMAGES = _schema(
    ("digest", pa.string(), False),
    ("group_id", pa.string(), False),
    ("png", pa.large_binary(), False),
)

SCORES = _schema(
    ("trajectory_id", pa.string(), False),
    ("reward", pa.float64(), False),
    *[(term, pa.float64(), True) for term in SCORE_TERMS],  # null where a term does not apply
)

REFERENCE = _schema(
    ("trajectory_id", pa.string(), False),
    ("reference_logprobs", _floats, False),  # aligned with token_ids, 0 where mask is 0
)

VALUES = _schema(
    ("trajectory_id", pa.string(), False),
    ("values", _floats, False),  # of the state before each sampled id; aligned with token_ids, 0 where mask is 0
)

_INPUTS = (
    ("trajectory_id", pa.string(), False),
    ("group_id", pa.string(), False),
    ("token_ids", _tokens, False),
    ("mask", pa.list_(pa.int8()), False),
    ("image_digests", pa.list_(pa.string()), False),
    ("image_grids", pa.list_(_grid), False),
)
_PLAN = (
    ("optimiser_step", pa.int32(), False),
    ("rank", pa.int32(), False),
    ("micro_batch", pa.int32(), False),
    ("denominator", pa.float64(), False),  # what the loss divides by, the same in one optimiser step
)

TRAINING = _schema(
    *_INPUTS,
    ("behaviour_logprobs", _floats, False),
    ("reference_logprobs", _floats, True),  # null when no reference model is used
    ("advantages", _floats, False),  # aligned with token_ids, 0 where mask is 0
    *_PLAN,
)

CRITIC = _schema(
    *_INPUTS,
    ("values", _floats, False),  # before the update
    ("returns", _floats, False),  # what they should have been; aligned with token_ids, 0 where mask is 0
    *_PLAN,
)


class SchemaError(ValueError):
    """A table does not have the columns, types or shape that its stage promises."""


def check(table: pa.Table, schema: pa.Schema, stage: str) -> pa.Table:
    """Returns the table if it has exactly the schema and its invariants hold.

    Checked beside names and types: no null in a required column, and every per-token column as long as `token_ids` in
    each row. Raises SchemaError naming the stage, the column and the first bad row.
    """
    if table.schema.names != schema.names:
        missing = [n for n in schema.names if n not in table.schema.names]
        extra = [n for n in table.schema.names if n not in schema.names]
        raise SchemaError(f"{stage}: columns missing {missing}, unknown {extra}; expected {schema.names} in order")
    for field in schema:
        column = table.column(field.name)
        if column.type != field.type:
            raise SchemaError(f"{stage}: column {field.name} is {column.type}, expected {field.type}")
        if not field.nullable and column.null_count:
            raise SchemaError(f"{stage}: column {field.name} holds {column.null_count} nulls, expected none")
    if "token_ids" in schema.names:
        _check_token_lengths(table, stage)
    return table


def _check_token_lengths(table: pa.Table, stage: str) -> None:
    import pyarrow.compute as pc

    lengths = pc.list_value_length(table.column("token_ids"))
    for name in ("mask", "behaviour_logprobs", "reference_logprobs", "advantages", "values", "returns"):
        if name not in table.schema.names:
            continue
        column = table.column(name)
        wrong = pc.and_(pc.is_valid(column), pc.not_equal(pc.list_value_length(column), lengths))
        rows = [i for i, bad in enumerate(wrong.to_pylist()) if bad]
        if rows:
            which = table.column("trajectory_id")[rows[0]].as_py()
            raise SchemaError(f"{stage}: {name} and token_ids differ in length in row {rows[0]} (trajectory {which})")


def join(left: pa.Table, right: pa.Table, stage: str) -> pa.Table:
    """Adds the columns of `right` to `left`, matched by `trajectory_id`, in the order of `left`.

    Every id of `left` must occur exactly once in `right` and the other way round; raises SchemaError otherwise.
    """
    keys = left.column("trajectory_id").to_pylist()
    where = {key: row for row, key in enumerate(right.column("trajectory_id").to_pylist())}
    if len(where) != right.num_rows or len(set(keys)) != len(keys):
        raise SchemaError(f"{stage}: a trajectory_id occurs twice")
    if where.keys() != set(keys):
        odd = sorted(map(str, where.keys() ^ set(keys)))[:3]
        raise SchemaError(f"{stage}: {len(keys)} trajectories against {len(where)}; unmatched: {odd}")
    matched = right.take([where[key] for key in keys])
    for name in right.schema.names:
        if name != "trajectory_id":
            left = left.append_column(right.schema.field(name), matched.column(name))
    return left


def concat(tables: Sequence[pa.Table], schema: pa.Schema, stage: str) -> pa.Table:
    """Checks every table and joins them row-wise into one contiguous table."""
    for table in tables:
        check(table, schema, stage)
    return pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()
