"""Every estimator, loss and KL by its published formula, written again in plain Python over lists of trained tokens.

Batches are ragged and their masks have holes; outside the mask stands NaN. All to 1e-5, whatever the order of rows, the
padding, or the split into parts.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from algorithms.adaptive import AdaptiveState, weights
from algorithms.auxiliary import token_entropy, value_loss
from algorithms.estimators import ESTIMATORS, EstimatorBatch
from algorithms.kl import KL_ESTIMATORS
from algorithms.losses import LOSSES
from algorithms.reductions import aggregate, count_denominator, group_index, token_weights
from schemas.config import BY_GROUP, Gae
from tests.algorithms.options import AdaptiveOptions, LossOptions

NAN = float("nan")
Rows = list[list[float]]


@dataclass(frozen=True)
class Token:
    """One position of a row."""

    trained: bool
    now: float
    old: float
    reference: float
    value: float
    penalty: float
    advantage: float


@dataclass(frozen=True)
class Row:
    """One trajectory."""

    group: int
    score: float
    greedy: float
    tokens: tuple[Token, ...]

    def trained(self) -> list[Token]:
        return [token for token in self.tokens if token.trained]


def rounded(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda v: round(v, 3))


token = st.builds(
    Token,
    trained=st.booleans(),
    now=rounded(-3, 0),
    old=rounded(-3, 0),
    reference=rounded(-3, 0),
    value=rounded(-2, 2),
    penalty=rounded(-0.5, 0.5),
    advantage=rounded(-2, 2),
)
row = st.builds(
    Row,
    group=st.integers(0, 2),
    score=rounded(0, 10),
    greedy=rounded(0, 10),
    tokens=st.lists(token, min_size=1, max_size=6).filter(lambda ts: any(t.trained for t in ts)).map(tuple),
)
batches = st.lists(row, min_size=1, max_size=7)


def column(rows: list[Row], name: str, width: int) -> Tensor:
    """[B, width], NaN wherever no token is trained."""
    out = torch.full((len(rows), width), NAN, dtype=torch.float64)
    for i, each in enumerate(rows):
        for t, token in enumerate(each.tokens):
            if token.trained:
                out[i, t] = getattr(token, name)
    return out


def mask_of(rows: list[Row], width: int) -> Tensor:
    mask = torch.zeros(len(rows), width, dtype=torch.int8)
    for i, each in enumerate(rows):
        mask[i, : len(each.tokens)] = torch.tensor([token.trained for token in each.tokens]).to(torch.int8)
    return mask


def width_of(rows: list[Row]) -> int:
    return max(len(each.tokens) for each in rows)


def packed(values: Tensor, mask: Tensor) -> Rows:
    """The trained tokens' values, row by row; all others must be 0."""
    assert (values[mask == 0] == 0).all()
    return [values[i][mask[i] == 1].tolist() for i in range(len(values))]


def assert_close(got: Rows, expected: Rows) -> None:
    assert [len(each) for each in got] == [len(each) for each in expected]
    for a, b in zip(got, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)


# The formulas. A row is the list of its trained tokens.


def totals(rows: list[Row], penalised: bool) -> list[float]:
    return [each.score - penalised * sum(token.penalty for token in each.trained()) for each in rows]


def by_sequence(name: str, rows: list[Row], scores: list[float]) -> list[float]:
    out: list[float] = []
    for i, each in enumerate(rows):
        members = [s for s, other in zip(scores, rows, strict=True) if other.group == each.group]
        others = [
            s for j, (s, other) in enumerate(zip(scores, rows, strict=True)) if other.group == each.group and j != i
        ]
        if name == "remax":
            out.append(scores[i] - each.greedy)
        elif not others or max(members) - min(members) == 0:
            out.append(0.0)
        elif name == "dr_grpo":
            out.append(scores[i] - statistics.fmean(members))
        elif name == "grpo":
            out.append((scores[i] - statistics.fmean(members)) / (statistics.stdev(members) + 1e-6))
        elif name == "rloo":
            out.append(scores[i] - statistics.fmean(others))
        else:
            best = scores[i] > max(others)
            out.append((scores[i] - max(others)) / (statistics.stdev(members) + 1e-6) if best else 0.0)
    return out


def spread(sequence: list[float], rows: list[Row]) -> Rows:
    return [[value] * len(each.trained()) for value, each in zip(sequence, rows, strict=True)]


def rewards(rows: list[Row], penalised: bool) -> Rows:
    out = [[-penalised * token.penalty for token in each.trained()] for each in rows]
    for each, values in zip(rows, out, strict=True):
        values[-1] += each.score
    return out


def whitened(values: Rows) -> Rows:
    flat = [value for each in values for value in each]
    mean = statistics.fmean(flat)
    scale = math.sqrt((statistics.variance(flat) if len(flat) > 1 else 0.0) + 1e-8)
    return [[(value - mean) / scale for value in each] for each in values]


def returns(values: Rows, gamma: float) -> Rows:
    return [[sum(gamma ** (k - t) * each[k] for k in range(t, len(each))) for t in range(len(each))] for each in values]


def generalised(rows: list[Row], values: Rows, gamma: float, lam: float) -> Rows:
    out: Rows = []
    for each, earned in zip(rows, values, strict=True):
        critic = [token.value for token in each.trained()] + [0.0]
        errors = [earned[t] + gamma * critic[t + 1] - critic[t] for t in range(len(earned))]
        out.append(
            [sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, len(errors))) for t in range(len(errors))]
        )
    return out


def formula(name: str, rows: list[Row], penalised: bool, gamma: float, lam: float) -> Rows:
    if name == "gae":
        return whitened(generalised(rows, rewards(rows, penalised), gamma, lam))
    if name == "reinforce_plus_plus":
        return whitened(returns(rewards(rows, penalised), gamma))
    scores = totals(rows, penalised)
    if name == "reinforce_plus_plus_baseline":
        return whitened(spread(by_sequence("dr_grpo", rows, scores), rows))
    return spread(by_sequence(name, rows, scores), rows)


def estimate(name: str, rows: list[Row], width: int, penalised: bool, gamma: float, lam: float) -> Rows:
    mask = mask_of(rows, width)
    found = ESTIMATORS[name](
        EstimatorBatch(
            scores=torch.tensor([each.score for each in rows], dtype=torch.float64),
            groups=group_index([each.group for each in rows]),
            mask=mask,
            penalty=column(rows, "penalty", width) if penalised else None,
            greedy_scores=torch.tensor([each.greedy for each in rows], dtype=torch.float64),
            values=column(rows, "value", width),
            gamma=gamma,
            gae=Gae(lam=lam),
        )
    )
    return packed(found.advantages, mask)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@settings(max_examples=30, deadline=None)
@given(rows=batches, penalised=st.booleans(), gamma=rounded(0.5, 1), lam=rounded(0, 1), data=st.data())
def test_estimators(name: str, rows: list[Row], penalised: bool, gamma: float, lam: float, data: st.DataObject) -> None:
    expected = formula(name, rows, penalised, gamma, lam)
    scores = totals(rows, penalised)
    groups = {each.group for each in rows}
    members = [[s for s, each in zip(scores, rows, strict=True) if each.group == group] for group in groups]
    if penalised and any(0 < max(each) - min(each) < 1e-9 for each in members):
        return  # equal but for rounding: no formula says which they are
    got = estimate(name, rows, width_of(rows), penalised, gamma, lam)
    assert_close(got, expected)
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = estimate(name, [rows[i] for i in order], width_of(rows) + 3, penalised, gamma, lam)
    assert_close(shuffled, [expected[i] for i in order])


@pytest.mark.parametrize("name", sorted(BY_GROUP | {"remax"}))
@settings(max_examples=30, deadline=None)
@given(rows=batches)
def test_estimators_by_group_do_not_see_other_groups(name: str, rows: list[Row]) -> None:
    together = estimate(name, rows, width_of(rows), False, 1.0, 1.0)
    for group in {each.group for each in rows}:
        members = [i for i, each in enumerate(rows) if each.group == group]
        alone = estimate(name, [rows[i] for i in members], width_of(rows), False, 1.0, 1.0)
        assert_close(alone, [together[i] for i in members])


OPTIONS = LossOptions(clip_low=0.2, clip_high=0.28, clip_dual=3.0, tau_positive=1.0, tau_negative=1.05)


def loss_of(name: str, rows: list[Row]) -> Rows:
    out: Rows = []
    for each in rows:
        tokens = each.trained()
        logs = [t.now - t.old for t in tokens]
        if name.startswith("gspo"):
            logs = [statistics.fmean(logs)] * len(logs)
        line: list[float] = []
        for t, log in zip(tokens, logs, strict=True):
            a, r = t.advantage, math.exp(log)
            held = min(max(r, 0.8), 1.28)
            if name == "cispo":
                line.append(-a * held * t.now)
            elif name == "sapo":
                tau = 1.0 if a >= 0 else 1.05
                line.append(-a * 4 / tau / (1 + math.exp(-tau * (r - 1))))
            else:
                worse = max(-a * r, -a * held)
                line.append(min(worse, -3 * a) if a < 0 else worse)
        out.append(line)
    return out


def averaged(values: Rows, kind: str) -> float:
    if kind == "token":
        return sum(map(sum, values)) / sum(map(len, values))
    if kind == "sequence":
        return statistics.fmean(sum(each) / len(each) for each in values)
    return sum(map(sum, values)) / 64


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("kind", ["token", "sequence", "constant"])
@settings(max_examples=12, deadline=None)
@given(rows=batches, data=st.data())
def test_losses_however_the_batch_is_split(name: str, kind: Any, rows: list[Row], data: st.DataObject) -> None:
    width = width_of(rows)
    denominator = count_denominator(kind, mask_of(rows, width).bool().sum(-1), 64.0)
    now = column(rows, "now", width).requires_grad_()

    def part(members: list[int]) -> Tensor:
        chosen = [rows[i] for i in members]
        mask = mask_of(chosen, width)
        old, advantages = column(chosen, "old", width), column(chosen, "advantage", width)
        per_token = LOSSES[name](now[members], old, advantages, mask, OPTIONS).per_token
        return aggregate(per_token, token_weights(kind, mask, torch.float64), denominator)

    whole = part(list(range(len(rows))))
    assert whole.item() == pytest.approx(averaged(loss_of(name, rows), kind), rel=1e-5, abs=1e-5)
    [gradient] = torch.autograd.grad(whole, now)
    owner = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    parts = [part(members) for k in range(3) if (members := [i for i, o in enumerate(owner) if o == k])]
    assert sum(p.item() for p in parts) == pytest.approx(whole.item(), rel=1e-9, abs=1e-12)
    [summed] = torch.autograd.grad(torch.stack(parts).sum(), now)
    torch.testing.assert_close(summed, gradient, rtol=1e-9, atol=1e-12)


KL_FORMULAS = {
    "k1": lambda d: d,
    "abs": abs,
    "k2": lambda d: d * d / 2,
    "k3": lambda d: min(math.exp(-d) - 1 + d, 10.0),
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(rounded(-6, 0), rounded(-6, 0)), min_size=1, max_size=8))
def test_kl_estimates(pairs: list[tuple[float, float]]) -> None:
    ours, reference = (torch.tensor([pair[k] for pair in pairs], dtype=torch.float64) for k in range(2))
    for name, known in KL_FORMULAS.items():
        expected = [known(a - b) for a, b in pairs]
        assert KL_ESTIMATORS[name](ours, reference).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-9)
        single = [KL_ESTIMATORS[name](ours[k], reference[k]).item() for k in range(len(pairs))]
        assert single == pytest.approx(expected, rel=1e-5, abs=1e-9)


logit_rows = st.lists(st.lists(rounded(-4, 4), min_size=5, max_size=5), min_size=1, max_size=4)


@settings(max_examples=30, deadline=None)
@given(logit_rows, logit_rows, st.integers(0, 3))
def test_full_kl_and_entropy(ours: Rows, others: Rows, forbidden: int) -> None:
    """Over the allowed part of a vocabulary of five."""
    count = min(len(ours), len(others))

    def probabilities(logits: list[float]) -> list[float]:
        kept = logits[forbidden:]
        return [math.exp(x) / sum(map(math.exp, kept)) for x in kept]

    p, q = ([probabilities(each) for each in rows[:count]] for rows in (ours, others))
    kl = [sum(a * math.log(a / b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]
    logits = [torch.tensor(rows[:count], dtype=torch.float64) for rows in (ours, others)]
    for each in logits:
        each[:, :forbidden] = float("-inf")
    a, b = (each.log_softmax(-1) for each in logits)
    assert KL_ESTIMATORS["full"](a, b).tolist() == pytest.approx(kl, rel=1e-5, abs=1e-9)
    entropy = [-sum(x * math.log(x) for x in each) for each in p]
    assert token_entropy(logits[0]).tolist() == pytest.approx(entropy, rel=1e-5, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(batches, st.sampled_from([None, 0.3]))
def test_the_critic_s_loss(rows: list[Row], clip: float | None) -> None:
    """`now` stands for the critic's new value, `value` for its old one, `advantage` for the return."""
    width = width_of(rows)
    mask = mask_of(rows, width)
    got = value_loss(*(column(rows, name, width) for name in ("now", "value", "advantage")), mask, clip)
    expected: Rows = []
    for each in rows:
        line: list[float] = []
        for t in each.trained():
            error = (t.now - t.advantage) ** 2
            if clip is not None:
                error = max(error, (min(max(t.now, t.value - clip), t.value + clip) - t.advantage) ** 2)
            line.append(error / 2)
        expected.append(line)
    assert_close(packed(got.per_token, mask), expected)


def spread_of(scores: list[float], statistic: str, bins: int) -> float:
    if statistic == "variance":
        return statistics.pvariance(scores)
    if statistic == "std":
        return statistics.pstdev(scores)
    low, width = min(scores), max(scores) - min(scores)
    if statistic == "range":
        return width
    if width <= 1e-6:
        return 0.0
    counts = [0] * bins
    for score in scores:
        counts[min(int((score - low) / width * bins), bins - 1)] += 1
    shares = [count / len(scores) for count in counts if count]
    return -sum(share * math.log(share) for share in shares)


MAPPINGS = {
    "sqrt": math.sqrt,
    "linear": lambda x: x,
    "power": lambda x: x**0.7,
    "log": lambda x: math.log(1 + 2 * x),
}


@pytest.mark.parametrize("statistic", ["variance", "std", "range", "entropy"])
@pytest.mark.parametrize("mapping", list(MAPPINGS))
@settings(max_examples=12, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 80).map(lambda v: v / 8)), min_size=1, max_size=12),
    g=rounded(0.05, 4),
    baseline=st.sampled_from(["moving_average", "batch"]),
    normalize=st.booleans(),
)
def test_adaptive_weights(
    statistic: Any, mapping: Any, rows: list[tuple[int, float]], g: float, baseline: Any, normalize: bool
) -> None:
    """Scores in eighths: where a score stands on the border of two bins, both sides compute the same."""
    options = AdaptiveOptions(
        statistic=statistic,
        mapping=mapping,
        baseline=baseline,
        normalize=normalize,
        power=0.7,
        log_alpha=2.0,
        entropy_bins=4,
        momentum=0.9,
    )
    names = list(dict.fromkeys(name for name, _ in rows))
    spreads = {name: spread_of([s for other, s in rows if other == name], statistic, 4) for name in names}
    mean = statistics.fmean(spreads.values())
    base = mean + 1e-6 if baseline == "batch" else max(1e-6, g)
    expected = [min(max(MAPPINGS[mapping](spreads[name] / base), 0.3), 3.0) for name, _ in rows]
    if normalize:
        scale = statistics.fmean(expected) + 1e-6
        expected = [weight / scale for weight in expected]
    scores = torch.tensor([score for _, score in rows], dtype=torch.float64)
    got, after, measured = weights(scores, group_index([name for name, _ in rows]), AdaptiveState(g), options)
    assert got.tolist() == pytest.approx(expected, rel=1e-5)
    assert measured == pytest.approx(mean, rel=1e-9, abs=1e-12)
    assert after.g == pytest.approx(max(1e-6, 0.9 * max(1e-6, g) + 0.1 * mean), rel=1e-9)
