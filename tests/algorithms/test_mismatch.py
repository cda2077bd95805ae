"""Importance weights between sampler and learner."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.mismatch import importance_weights
from schemas.config import Mismatch

NAN = float("nan")
MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]])
BEHAVIOUR = torch.tensor([[-2.0, -1.0, NAN, -3.0], [NAN, -1.0, -1.0, NAN]], dtype=torch.float64)
SHIFT = torch.tensor([[math.log(3), math.log(0.25), NAN, 0.0], [NAN, math.log(1.5), math.log(1.2), NAN]]).double()


@pytest.mark.parametrize(
    ("options", "expected", "limited"),
    [
        (Mismatch(), [[2.0, 0.25, 0, 1.0], [0, 1.5, 1.2, 0]], 1),
        (Mismatch(mode="mask"), [[0.0, 0.0, 0, 1.0], [0, 1.5, 1.2, 0]], 2),
        (Mismatch(mode="mask", limit=4.0, low=0.5), [[3.0, 0.0, 0, 1.0], [0, 1.5, 1.2, 0]], 1),
        (Mismatch(level="sequence", limit=1.5), [[0.75, 0.75, 0, 0.75], [0, 1.5, 1.5, 0]], 2),
        (Mismatch(level="sequence", mode="mask", limit=1.5), [[0.75, 0.75, 0, 0.75], [0, 0, 0, 0]], 2),
    ],
)
def test_by_hand(options: Mismatch, expected: list[list[float]], limited: int) -> None:
    got = importance_weights(BEHAVIOUR + SHIFT, BEHAVIOUR, MASK, options)
    assert got.weights.flatten().tolist() == pytest.approx([v for row in expected for v in row], rel=1e-6)
    assert (int(got.tokens), int(got.limited)) == (5, limited)
    assert float(got.largest_gap) == pytest.approx(math.log(4), rel=1e-6)
    assert float(got.ratio) == pytest.approx(3 + 0.25 + 1 + 1.5 + 1.2, rel=1e-6)  # of tokens, at every level
    logs = math.log(3) + math.log(0.25) + math.log(1.5) + math.log(1.2)
    assert float(got.k3) == pytest.approx(6.95 - 5 - logs, rel=1e-6)
    assert float(got.gap) == pytest.approx(math.log(3) + math.log(4) + math.log(1.5) + math.log(1.2), rel=1e-6)


def test_agreement_gives_ones_and_no_gradient() -> None:
    x = BEHAVIOUR.clone().requires_grad_()
    got = importance_weights(x, BEHAVIOUR, MASK, Mismatch(level="sequence", mode="mask", limit=1.0))
    assert got.weights.tolist() == MASK.tolist()
    assert not got.weights.requires_grad


log_ratios = st.lists(
    st.lists(st.tuples(st.floats(-2, 2), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=4
)


@settings(max_examples=80, deadline=None)
@given(log_ratios, st.sampled_from(["token", "sequence"]), st.sampled_from(["truncate", "mask"]))
def test_against_a_slow_oracle(rows: list[list[tuple[float, bool]]], level: Any, mode: Any) -> None:
    options = Mismatch(level=level, mode=mode, limit=2.5, low=0.6 if mode == "mask" else None)
    width = max(map(len, rows))
    mask, learner = torch.zeros(len(rows), width, dtype=torch.int8), torch.full((len(rows), width), NAN).double()
    sampler = learner.clone()
    expected = [[0.0] * width for _ in rows]
    limited, kl = 0, 0.0
    for i, row in enumerate(rows):
        whole = sum(d for d, trained in row if trained)
        for t, (d, trained) in enumerate(row):
            if not trained:
                continue
            mask[i, t], learner[i, t], sampler[i, t] = 1, -1.0 + d, -1.0
            ratio = math.exp(whole if level == "sequence" else d)
            outside = ratio > 2.5 or (mode == "mask" and ratio < 0.6)
            expected[i][t] = (0.0 if mode == "mask" else 2.5) if outside else ratio
            limited, kl = limited + outside, kl + math.exp(d) - 1 - d
    got = importance_weights(learner, sampler, mask, options)
    assert got.weights.tolist() == [pytest.approx(row, rel=1e-9) for row in expected]
    assert (int(got.limited), float(got.k3)) == (limited, pytest.approx(kl, rel=1e-6, abs=1e-9))


@pytest.mark.parametrize("field", [{"low": 0.0}, {"low": 1.5}, {"low": NAN}, {"limit": 0.5}, {"limit": math.inf}])
def test_bounds_that_cut_agreement_are_refused(field: dict[str, float]) -> None:
    """A ratio of 1 is agreement: the least weight that is kept is at most 1, the largest at least."""
    with pytest.raises(ValueError, match=next(iter(field))):
        Mismatch.model_validate({"mode": "mask"} | field)
