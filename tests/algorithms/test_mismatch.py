"""Importance weights between sampler and learner."""

from __future__ import annotations

import math

import pytest
import torch

from algorithms.mismatch import MismatchOptions, importance_weights

NAN = float("nan")
MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]])
BEHAVIOUR = torch.tensor([[-2.0, -1.0, NAN, -3.0], [NAN, -1.0, -1.0, NAN]], dtype=torch.float64)
SHIFT = torch.tensor([[math.log(3), math.log(0.25), NAN, 0.0], [NAN, math.log(1.5), math.log(1.2), NAN]]).double()


@pytest.mark.parametrize(
    ("options", "expected", "limited"),
    [
        (MismatchOptions(), [[2.0, 0.25, 0, 1.0], [0, 1.5, 1.2, 0]], 1),
        (MismatchOptions(mode="mask"), [[0.0, 0.0, 0, 1.0], [0, 1.5, 1.2, 0]], 2),
        (MismatchOptions(level="sequence", limit=1.5), [[0.75, 0.75, 0, 0.75], [0, 1.5, 1.5, 0]], 2),
        (MismatchOptions(level="sequence", mode="mask", limit=1.5), [[0.75, 0.75, 0, 0.75], [0, 0, 0, 0]], 2),
    ],
)
def test_by_hand(options: MismatchOptions, expected: list[list[float]], limited: int) -> None:
    got = importance_weights(BEHAVIOUR + SHIFT, BEHAVIOUR, MASK, options)
    assert got.weights.flatten().tolist() == pytest.approx([v for row in expected for v in row], rel=1e-6)
    assert (int(got.tokens), int(got.limited)) == (5, limited)
    assert float(got.largest_gap) == pytest.approx(math.log(4), rel=1e-6)
    assert float(got.gap) == pytest.approx(math.log(3) + math.log(4) + math.log(1.5) + math.log(1.2), rel=1e-6)


def test_agreement_gives_ones_and_no_gradient() -> None:
    x = BEHAVIOUR.clone().requires_grad_()
    got = importance_weights(x, BEHAVIOUR, MASK, MismatchOptions(level="sequence", mode="mask", limit=1.0))
    assert got.weights.tolist() == MASK.tolist()
    assert not got.weights.requires_grad


@pytest.mark.parametrize("limit", [0.5, 0.0, math.inf, NAN])
def test_a_limit_that_cuts_agreement_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MismatchOptions(limit=limit)
