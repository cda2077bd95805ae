"""Arrow tables are checked at every entry and joined by trajectory_id."""

from typing import Any

import pyarrow as pa
import pytest

from schemas import batch


def rollout_row(name: str, tokens: int = 4, **other: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trajectory_id": name,
        "group_id": "g",
        "task_id": "t",
        "sample": 0,
        "kind": "sample",
        "token_ids": list(range(tokens)),
        "mask": [0] + [1] * (tokens - 1),
        "behaviour_logprobs": [0.0] + [-0.5] * (tokens - 1),
        "image_digests": ["d"],
        "image_grids": [[1, 8, 8]],
        "turn_texts": ["x"],
        "turn_lengths": [tokens - 1],
        "turn_versions": [0],
        "ended_by": "answer",
        "reply": "x",
        "ground_truth": "none",
        "frame": "pixels",
        "original_size": [448, 448],
        "seen_size": [112, 112],
    }
    return row | other


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=batch.ROLLOUT)


def scores(*pairs: tuple[str, float]) -> pa.Table:
    return pa.Table.from_pylist([{"trajectory_id": n, "reward": r} for n, r in pairs], schema=batch.SCORES)


def test_a_good_table_passes_unchanged() -> None:
    good = table(rollout_row("a"), rollout_row("b", tokens=7))
    assert batch.check(good, batch.ROLLOUT, "test") is good


def test_a_missing_and_an_unknown_column_are_named() -> None:
    odd = table(rollout_row("a")).drop_columns(["mask"]).append_column("masks", pa.array([1]))
    with pytest.raises(batch.SchemaError, match=r"test: columns missing \['mask'\], unknown \['masks'\]"):
        batch.check(odd, batch.ROLLOUT, "test")


def test_a_wrong_type_is_named() -> None:
    good = table(rollout_row("a"))
    i = good.schema.get_field_index("token_ids")
    odd = good.set_column(i, "token_ids", pa.array([[1, 2, 3, 4]], pa.list_(pa.int64())))
    with pytest.raises(batch.SchemaError, match=r"column token_ids is list<.*int64>, expected list<.*int32>"):
        batch.check(odd, batch.ROLLOUT, "test")


def test_a_null_in_a_required_column_is_named() -> None:
    odd = table(rollout_row("a"), rollout_row("b", reply=None))
    with pytest.raises(batch.SchemaError, match="column reply holds 1 nulls"):
        batch.check(odd, batch.ROLLOUT, "test")


@pytest.mark.parametrize("column", ["mask", "behaviour_logprobs"])
def test_a_token_column_of_another_length_names_the_trajectory(column: str) -> None:
    odd = table(rollout_row("a"), rollout_row("b", **{column: [1, 1]}))
    with pytest.raises(batch.SchemaError, match=rf"{column} and token_ids differ in length in row 1 \(trajectory b\)"):
        batch.check(odd, batch.ROLLOUT, "test")


def test_join_matches_by_id_in_the_order_of_the_left() -> None:
    joined = batch.join(table(rollout_row("a"), rollout_row("b")), scores(("b", 2.0), ("a", 1.0)), "test")
    assert joined.column("reward").to_pylist() == [1.0, 2.0]
    assert joined.schema.field("reward").type == pa.float64()


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([("a", 1.0)], "unmatched: .'b'."),
        ([("a", 1.0), ("b", 1.0), ("c", 1.0)], "unmatched: .'c'."),
        ([("a", 1.0), ("a", 2.0)], "occurs twice"),
    ],
)
def test_join_refuses_rows_without_their_match(pairs: list[tuple[str, float]], said: str) -> None:
    with pytest.raises(batch.SchemaError, match=said):
        batch.join(table(rollout_row("a"), rollout_row("b")), scores(*pairs), "test")


def test_concat_of_shards_is_one_contiguous_table() -> None:
    whole = batch.concat([table(rollout_row("a")), table(rollout_row("b"))], batch.ROLLOUT, "test")
    assert whole.column("token_ids").num_chunks == 1
    assert whole.column("trajectory_id").to_pylist() == ["a", "b"]
