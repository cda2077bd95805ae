"""The learning rate by hand, and what is decayed."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policy.learning.optimiser import build_optimiser, learning_rate, set_learning_rate
from schemas.config import Optimiser


def rates(total, **options):
    return [round(learning_rate(step, Optimiser(lr=1.0, **options), total), 6) for step in range(total)]


def test_schedules_by_hand():
    assert rates(4) == [1, 1, 1, 1]
    assert rates(4, warmup_steps=2) == [0.5, 1, 1, 1]
    assert rates(5, schedule="linear") == [1, 0.75, 0.5, 0.25, 0]
    assert rates(5, schedule="cosine") == pytest.approx([1, 0.853553, 0.5, 0.146447, 0])
    assert rates(3, schedule="cosine", min_ratio=0.2) == pytest.approx([1, 0.6, 0.2])


def test_beyond_the_end_the_rate_stays():
    options = Optimiser(lr=1.0, schedule="linear", min_ratio=0.1)
    assert learning_rate(99, options, 10) == pytest.approx(0.1)
    assert learning_rate(0, options, 1) == 1.0


@given(st.integers(0, 50), st.integers(1, 60), st.sampled_from(["constant", "cosine", "linear"]), st.floats(0, 1))
def test_the_rate_is_bounded_and_never_rises_after_the_warm_up(warmup, total, schedule, min_ratio):
    min_ratio = 0.0 if schedule == "constant" else min_ratio
    options = Optimiser(lr=2.0, warmup_steps=warmup, schedule=schedule, min_ratio=min_ratio)
    values = [learning_rate(step, options, total) for step in range(total + 5)]
    assert all(0 <= value <= 2.0 for value in values)
    after = values[warmup:]
    assert all(a >= b - 1e-12 for a, b in pairwise(after))
    assert all(value >= 2.0 * min_ratio - 1e-12 for value in after)


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_norms_and_biases_are_not_decayed(state_dtype):
    layer = torch.nn.Linear(2, 2)
    frozen = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
    options = Optimiser(lr=0.1, weight_decay=0.5, state_dtype=state_dtype)
    optimiser = build_optimiser([*layer.parameters(), frozen], options)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    for p in layer.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    torch.testing.assert_close(layer.weight.detach(), weight * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias.detach(), bias)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 2
    set_learning_rate(optimiser, 0.3)
    assert [group["lr"] for group in optimiser.param_groups] == [0.3, 0.3]


def test_a_warm_up_as_a_share_of_the_run_is_the_same_in_steps():
    assert rates(20, warmup_ratio=0.1, schedule="linear") == rates(20, warmup_steps=2, schedule="linear")
    assert rates(9, warmup_ratio=0.1) == rates(9)  # 0.9 of a step is none
    with pytest.raises(ValueError, match="set one of them"):
        Optimiser(warmup_steps=1, warmup_ratio=0.1)
