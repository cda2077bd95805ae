"""Masked sums, and that no split of a batch changes its loss or gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.reductions import (
    Denominator,
    aggregate,
    count_denominator,
    group_index,
    masked_mean,
    masked_sum,
    masked_var,
    token_weights,
    zero_unmasked,
)

HOLES = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
NAN = float("nan")


def test_masked_statistics_by_hand_ignore_garbage_outside_the_mask() -> None:
    x = torch.tensor([[NAN, 1.0, 2.0, NAN, 6.0], [4.0, NAN, NAN, NAN, NAN], [NAN] * 5], dtype=torch.float64)
    assert masked_sum(x, HOLES).item() == 13.0
    assert masked_sum(x, HOLES, -1).tolist() == [9.0, 4.0, 0.0]
    assert masked_mean(x, HOLES, -1).tolist() == [3.0, 4.0, 0.0]
    # mean 3.25; squares 5.0625 + 1.5625 + 7.5625 + 0.5625 = 14.75; over n - 1 = 3
    assert masked_var(x, HOLES).item() == pytest.approx(14.75 / 3, rel=1e-15)
    assert masked_var(x, torch.zeros_like(HOLES)).item() == 0.0


def test_nan_outside_the_mask_does_not_reach_the_gradient() -> None:
    x = torch.tensor([[NAN, 2.0]], requires_grad=True)
    zero_unmasked(x, torch.tensor([[0, 1]])).square().sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 4.0]]


def test_denominators_by_hand() -> None:
    assert count_denominator("token", HOLES.bool().sum(-1)) == 4.0
    assert count_denominator("sequence", HOLES.bool().sum(-1)) == 2.0
    assert count_denominator("constant", HOLES.bool().sum(-1), 96.0) == 96.0
    assert count_denominator("token", torch.zeros(2)) == 1.0
    assert count_denominator("sequence", torch.zeros(2)) == 1.0
    for bad in (None, 0.0, -1.0, math.inf, NAN):
        with pytest.raises(ValueError, match="finite constant > 0"):
            count_denominator("constant", HOLES.bool().sum(-1), bad)


def test_sequence_average_is_the_mean_of_the_rows_means() -> None:
    x = torch.tensor([[9.0, 1.0, 2.0, 9.0, 6.0], [4.0, 9.0, 9.0, 9.0, 9.0], [9.0] * 5])
    loss = aggregate(x, token_weights("sequence", HOLES), count_denominator("sequence", HOLES.bool().sum(-1)))
    assert loss.item() == pytest.approx((3.0 + 4.0) / 2, rel=1e-6)
    loss = aggregate(x, token_weights("token", HOLES), count_denominator("token", HOLES.bool().sum(-1)))
    assert loss.item() == pytest.approx(13.0 / 4, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=8),
    st.sampled_from(["token", "sequence", "constant"]),
    st.data(),
)
def test_any_split_gives_the_same_gradient(rows: list[list[bool]], kind: Denominator, data: st.DataObject) -> None:
    mask = torch.tensor(rows)
    generator = torch.Generator().manual_seed(len(rows))
    x = torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    denominator = count_denominator(kind, mask.bool().sum(-1), 7.0 if kind == "constant" else None)

    def gradient(part: torch.Tensor) -> float:
        per_token = (w * x[part]).exp()
        loss = aggregate(per_token, token_weights(kind, mask[part], torch.float64), denominator)
        return float(torch.autograd.grad(loss, w)[0])

    owner = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    whole = gradient(torch.arange(len(rows)))
    parts = sum(gradient((owner == k).nonzero().flatten()) for k in range(4))
    assert parts == pytest.approx(whole, rel=1e-12, abs=1e-15)


def test_group_index_keeps_the_order_of_appearance() -> None:
    assert group_index(["b", "a", "b", "c", "a"]).tolist() == [0, 1, 0, 2, 1]
    assert group_index([]).shape == (0,)
