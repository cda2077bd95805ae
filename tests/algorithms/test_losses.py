"""Policy losses: by hand, against a plain-Python oracle with holes and garbage, and gradients at the bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from algorithms.losses import LOSSES, ppo_clip
from algorithms.reductions import aggregate, count_denominator, token_weights
from schemas.config import Loss
from tests.algorithms.options import LossOptions

OPTIONS = LossOptions(clip_low=0.2, clip_high=0.3, clip_dual=3.0, tau_positive=1.0, tau_negative=1.05)
NAN = float("nan")


def tensors(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_ppo_clip_by_hand() -> None:
    ratios = [1.1, 1.5, 0.5, 1.1, 1.5, 0.5, 4.0]
    advantages = tensors([2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -2.0])
    now = tensors([math.log(r) for r in ratios])
    loss = ppo_clip(now, torch.zeros_like(now), advantages, torch.ones(1, 7), OPTIONS)
    # up: 1.1 A, held at 1.3 A, 0.5 A; down: 1.1 |A|, 1.5 |A|, held at 0.8 |A|, held at 3 |A| by the dual clip
    expected = [-2.2, -2.6, -1.0, 2.2, 3.0, 1.6, 6.0]
    assert loss.per_token[0].tolist() == pytest.approx(expected, rel=1e-12)
    means = loss.stats.means()
    assert means["clip_high"] == pytest.approx(1 / 7)
    assert means["clip_low"] == pytest.approx(1 / 7)
    assert means["clip_dual"] == pytest.approx(1 / 7)
    assert means["ratio"] == pytest.approx(sum(ratios) / 7)
    assert means["k1"] == pytest.approx(-sum(map(math.log, ratios)) / 7)
    assert means["k3"] == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / 7)


def test_cispo_counts_a_weight_at_either_bound_whatever_the_advantage_s_sign() -> None:
    """Its weight is clipped on both sides for both signs; where the advantage is 0 there is nothing to hold."""
    ratios = [1.1, 1.5, 0.5, 1.1, 1.5, 0.5, 4.0, 1.5, 0.5]
    advantages = tensors([2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -2.0, 0.0, 0.0])
    now = tensors([math.log(r) for r in ratios])
    loss = LOSSES["cispo"](now, torch.zeros_like(now), advantages, torch.ones(1, 9), OPTIONS)
    weights = [1.1, 1.3, 0.8, 1.1, 1.3, 0.8, 1.3, 1.3, 0.8]
    products = zip(advantages[0].tolist(), weights, now[0].tolist(), strict=True)
    assert loss.per_token[0].tolist() == pytest.approx([-a * w * x for a, w, x in products], rel=1e-12)
    stats = loss.stats
    assert [float(x) for x in (stats.clip_high, stats.clip_low, stats.clip_dual)] == [3, 2, 0]


def test_sapo_has_no_bound_that_could_hold_a_token() -> None:
    now = tensors([math.log(r) for r in (1.5, 0.5, 4.0)])
    stats = LOSSES["sapo"](now, torch.zeros_like(now), tensors([2.0, -2.0, -2.0]), torch.ones(1, 3), OPTIONS).stats
    assert [float(x) for x in (stats.clip_high, stats.clip_low, stats.clip_dual)] == [0, 0, 0]


def test_gradient_vanishes_exactly_where_a_bound_holds() -> None:
    now = tensors([math.log(r) for r in (1.1, 1.5, 0.5, 0.5, 1.5, 4.0)]).requires_grad_()
    advantages = tensors([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    ppo_clip(now, torch.zeros(1, 6).double(), advantages, torch.ones(1, 6), OPTIONS).per_token.sum().backward()
    assert now.grad is not None
    assert now.grad[0].tolist() == pytest.approx([-1.1, 0.0, -0.5, 0.0, 1.5, 0.0], rel=1e-12)


def oracle(name: str, now: list[float], old: list[float], adv: list[float], mask: list[int]) -> list[float]:
    logs = [a - b for a, b in zip(now, old, strict=True)]
    trained = [d for d, m in zip(logs, mask, strict=True) if m]
    out: list[float] = []
    for i, (a, m) in enumerate(zip(adv, mask, strict=True)):
        if not m:
            out.append(0.0)
            continue
        r = math.exp(sum(trained) / len(trained)) if name.startswith("gspo") else math.exp(logs[i])
        held = min(max(r, 0.8), 1.3)
        if name == "cispo":
            out.append(-a * held * now[i])
        elif name == "sapo":
            tau = 1.05 if a < 0 else 1.0
            out.append(-a * 4 / tau / (1 + math.exp(-tau * (r - 1))))
        else:
            loss = max(-a * r, -a * held)
            out.append(min(loss, -3 * a) if a < 0 else loss)
    return out


number = st.floats(-2, 2).map(lambda v: round(v, 3))
rows = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        *[st.lists(number, min_size=n, max_size=n)] * 3, st.lists(st.booleans(), min_size=n, max_size=n)
    )
)


@pytest.mark.parametrize("name", list(LOSSES))
@settings(max_examples=40, deadline=None)
@given(batch=st.lists(rows, min_size=1, max_size=4))
def test_against_a_slow_oracle_with_holes_and_garbage(name: str, batch: list[Any]) -> None:
    width = max(len(r[0]) for r in batch)
    mask = torch.zeros(len(batch), width, dtype=torch.int8)
    now, old, adv = (torch.full((len(batch), width), NAN, dtype=torch.float64) for _ in range(3))
    for i, (a, b, c, m) in enumerate(batch):
        mask[i, : len(m)] = torch.tensor(m).to(torch.int8)
        for tensor, row in ((now, a), (old, b), (adv, c)):
            keep = torch.tensor(m)
            tensor[i, : len(m)][keep] = torch.tensor(row, dtype=torch.float64)[keep]
    now.requires_grad_()
    loss = LOSSES[name](now, old, adv, mask, OPTIONS)
    for i, (a, b, c, m) in enumerate(batch):
        got = loss.per_token[i, : len(m)].tolist()
        assert got == pytest.approx(oracle(name, a, b, c, [int(x) for x in m]), rel=1e-9, abs=1e-12)
    loss.per_token.sum().backward()
    assert now.grad is not None
    assert torch.isfinite(now.grad).all()
    assert (now.grad[mask == 0] == 0).all()
    assert int(loss.stats.tokens) == int(mask.sum())


@pytest.mark.parametrize("name", list(LOSSES))
def test_at_ratio_one_every_loss_has_the_policy_gradient(name: str) -> None:
    """With one update per batch all losses agree; GSPO spreads the row's advantage over its tokens."""
    now = tensors([-1.0, -2.0, -0.5], [-0.1, -3.0, -1.0]).requires_grad_()
    mask, adv = torch.tensor([[1, 0, 1], [1, 1, 1]]), tensors([2.0, 2.0, 2.0], [-1.0, -1.0, -1.0])
    loss = LOSSES[name](now, now.detach().clone(), adv, mask, OPTIONS)
    loss.per_token.sum().backward()
    assert now.grad is not None
    assert now.grad.flatten().tolist() == pytest.approx((-adv * mask).flatten().tolist(), rel=1e-12)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_split_by_rows_changes_neither_gradient_nor_statistics(name: str, kind: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    now, old, adv = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = torch.rand(6, 5, generator=generator) < 0.6
    denominator = count_denominator(kind, mask.bool().sum(-1))
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def part(rows: list[int]) -> tuple[float, Any]:
        loss = LOSSES[name](now[rows] + shift, old[rows], adv[rows], mask[rows], OPTIONS)
        total = aggregate(loss.per_token, token_weights(kind, mask[rows], torch.float64), denominator)
        return float(torch.autograd.grad(total, shift)[0]), loss.stats

    whole, stats = part([0, 1, 2, 3, 4, 5])
    pieces = [part(rows) for rows in ([4], [0, 5], [2, 3, 1])]
    assert sum(g for g, _ in pieces) == pytest.approx(whole, rel=1e-12)
    added = pieces[0][1] + pieces[1][1] + pieces[2][1]
    assert added.means() == pytest.approx(stats.means(), rel=1e-12)


def test_gspo_token_has_gspo_s_value_and_its_own_gradient_per_token() -> None:
    now, old = tensors([-1.0, -2.0]).requires_grad_(), tensors([-1.1, -2.0])
    adv, mask = tensors([1.0, -2.0]), torch.ones(1, 2)
    r = math.exp(0.05)
    loss = LOSSES["gspo_token"](now, old, adv, mask, OPTIONS)
    assert loss.per_token[0].tolist() == pytest.approx([-r, 2 * r], rel=1e-12)
    loss.per_token.sum().backward()
    assert now.grad is not None
    assert now.grad[0].tolist() == pytest.approx([-r, 2 * r], rel=1e-12)


def test_a_log_ratio_of_thousands_stays_finite() -> None:
    now = torch.tensor([[5000.0, -5000.0]], requires_grad=True)
    for name, loss in LOSSES.items():
        if name == "cispo":
            continue
        out = loss(now, torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2), LossOptions(clip_dual=None))
        assert torch.isfinite(out.per_token).all(), name
        assert torch.isfinite(torch.autograd.grad(out.per_token.sum(), now)[0]).all(), name


def test_a_bound_that_is_read_must_be_given() -> None:
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="reads clip_low"):
        ppo_clip(x, x, x, torch.ones(1, 1), Loss(name="sapo"))
