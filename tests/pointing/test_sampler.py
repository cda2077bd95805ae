"""The order of tasks: every epoch a permutation, any interruption without a trace."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointing.sampler import Cursor, Sampler

START = Cursor(0, 0)


@given(st.integers(1, 40), st.integers(0, 10**6), st.booleans(), st.lists(st.integers(0, 25), min_size=1, max_size=12))
def test_cut_anywhere_the_sequence_is_the_same(n_tasks: int, seed: int, shuffle: bool, counts: list[int]) -> None:
    whole, end = Sampler(n_tasks, seed, shuffle).take(START, sum(counts))
    pieces: list[int] = []
    cursor = START
    for count in counts:
        taken, cursor = Sampler(n_tasks, seed, shuffle).take(cursor, count)  # a new process each time
        assert len(taken) == count
        cursor = Cursor(**json.loads(json.dumps(cursor.to_json())))
        pieces.extend(taken)
    assert tuple(pieces) == whole
    assert cursor.epoch * n_tasks + cursor.position == end.epoch * n_tasks + end.position == sum(counts)


@given(st.integers(1, 40), st.integers(0, 10**6), st.booleans(), st.integers(1, 30))
def test_every_epoch_is_a_permutation(n_tasks: int, seed: int, shuffle: bool, batch: int) -> None:
    sampler, cursor, dealt = Sampler(n_tasks, seed, shuffle), START, list[int]()
    while len(dealt) < 3 * n_tasks:
        taken, cursor = sampler.take(cursor, batch)
        dealt.extend(taken)
    for epoch in range(3):
        assert sorted(dealt[epoch * n_tasks : (epoch + 1) * n_tasks]) == list(range(n_tasks))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    sampler = Sampler(50, 7)
    assert sampler.order(0) != sampler.order(1)
    assert sampler.order(0) != Sampler(50, 8).order(0)
    assert sampler.order(1) == Sampler(50, 7).order(1)
    assert Sampler(50, 7, shuffle=False).order(5) == tuple(range(50))


def test_a_batch_larger_than_the_data_wraps_more_than_once() -> None:
    taken, cursor = Sampler(3, 0, shuffle=False).take(Cursor(0, 1), 7)
    assert taken == (1, 2, 0, 1, 2, 0, 1)
    assert cursor == Cursor(2, 2)


def test_a_cursor_of_other_data_is_refused() -> None:
    with pytest.raises(ValueError, match="task 9 of 5: the data has changed"):
        Sampler(5, 0).take(Cursor(0, 9), 1)
    with pytest.raises(ValueError, match="n_tasks is 0"):
        Sampler(0, 0)
    with pytest.raises(ValueError, match=r"cursor \(0, -1\)"):
        Cursor(0, -1)
