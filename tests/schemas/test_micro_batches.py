"""How trajectories share forward passes: by hand, and the limits for any lengths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.config import Learner
from schemas.config.micro_batches import MicroBatches


def test_by_hand() -> None:
    lengths = [10, 40, 20, 30]
    assert MicroBatches(rows=3).fill(lengths) == [[1, 3, 2], [0]]
    # Padded, 40 + 40 tokens for the first two rows and 20 + 20 for the others; packed, 40 + 30 and then 20 + 10.
    assert MicroBatches(rows=None, tokens=80).fill(lengths) == [[1, 3], [2, 0]]
    assert MicroBatches(rows=None, tokens=79).fill(lengths) == [[1], [3, 2], [0]]
    assert MicroBatches(rows=None, tokens=70, packed=True).fill(lengths) == [[1, 3], [2, 0]]
    assert MicroBatches(rows=None, tokens=69, packed=True).fill(lengths) == [[1], [3, 2, 0]]
    assert MicroBatches(rows=1, tokens=1000).fill([5, 5]) == [[0], [1]]
    assert MicroBatches(rows=4, tokens=3).fill([7, 9]) == [[1], [0]]  # too long for any: alone
    assert MicroBatches(rows=4).fill([]) == []


@given(
    lengths=st.lists(st.integers(1, 50), max_size=30),
    rows=st.integers(1, 6) | st.none(),
    tokens=st.integers(1, 120) | st.none(),
    packed=st.booleans(),
)
def test_every_row_once_within_the_limits(
    lengths: list[int], rows: int | None, tokens: int | None, packed: bool
) -> None:
    parts = MicroBatches(rows, tokens, packed).fill(lengths)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        held = [lengths[row] for row in part]
        cost = sum(held) if packed else len(held) * max(held)
        assert len(part) == 1 or ((rows is None or len(part) <= rows) and (tokens is None or cost <= tokens))


def test_tokens_take_the_place_of_rows() -> None:
    assert Learner().micro_batches == MicroBatches(16)
    assert Learner(micro_batch_tokens=500, layout="packed").micro_batches == MicroBatches(None, 500, packed=True)
    assert str(Learner(micro_batch_tokens=500, micro_batch_rows=4).micro_batches) == "4 trajectories and 500 tokens"
    with pytest.raises(ValueError, match="limits nothing; set one of them"):
        Learner(micro_batch_rows=None)
