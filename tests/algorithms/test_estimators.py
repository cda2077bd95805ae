"""Every estimator by name, and the combinations that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from algorithms import advantages
from algorithms.estimators import ESTIMATORS, EstimatorBatch
from algorithms.losses import LOSSES
from algorithms.token_advantages import token_rewards
from schemas.config import LOSS_DEFAULTS, Gae
from tests.algorithms.options import LossOptions

MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]])
SCORES = torch.tensor([1.0, 4.0, 2.0, 9.0], dtype=torch.float64)
BATCH = EstimatorBatch(
    SCORES,
    torch.tensor([0, 0, 1, 1]),
    MASK,
    greedy_scores=torch.tensor([2.0, 2.0, 5.0, 5.0]),
    values=torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double(),
    gae=Gae(),
)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_all_give_finite_advantages_on_trained_tokens_alone_for_batches_of_every_size(name: str) -> None:
    for size in (1, 2, 4):
        part = EstimatorBatch(
            *(x[:size] for x in (BATCH.scores, BATCH.groups, BATCH.mask)),
            penalty=torch.full((size, 4), 0.25),
            greedy_scores=torch.zeros(size),
            values=torch.zeros(size, 4),
            gae=Gae(),
        )
        got = ESTIMATORS[name](part).advantages
        assert got.shape == (size, 4)
        assert torch.isfinite(got).all()
        assert (got[part.mask == 0] == 0).all()


def test_a_penalty_lowers_the_scores_that_groups_compare() -> None:
    penalty = torch.tensor([0.5, 0.0, 0.0, 1.0]).unsqueeze(-1).expand(4, 4)
    batch = EstimatorBatch(SCORES, BATCH.groups, MASK, penalty=penalty)
    assert batch.totals.tolist() == [1 - 1.5, 4.0, 2.0, 9.0 - 2.0]
    got = ESTIMATORS["dr_grpo"](batch).advantages
    assert got[0].tolist() == [-2.25, -2.25, 0.0, -2.25]
    assert ESTIMATORS["rloo"](batch).advantages[3, 2].item() == 5.0


def test_gae_whitens_advantages_and_leaves_returns_alone() -> None:
    got = ESTIMATORS["gae"](BATCH)
    trained = got.advantages[MASK.bool()]
    assert trained.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert trained.std().item() == pytest.approx(1.0, rel=1e-6)
    assert got.returns is not None
    expected = token_rewards(SCORES, MASK).flip(-1).cumsum(-1).flip(-1) * MASK
    assert torch.allclose(got.returns, expected, atol=1e-12)


def test_gae_has_one_trace_for_the_policy_and_one_for_the_critic() -> None:
    # Rewards 0 and 8, values 2 and 4, discount 1/2. Errors: 0 + 4/2 - 2 = 0 and 8 - 4 = 4.
    # lam 1/2: advantages 0 + 4/4 = 1 and 4; lam 1: 0 + 4/2 = 2 and 4, so returns 4 and 8.
    batch = EstimatorBatch(
        torch.tensor([8.0]),
        torch.tensor([0]),
        torch.tensor([[1, 0, 1]]),
        values=torch.tensor([[2.0, 9.0, 4.0]]).double(),
        gamma=0.5,
        gae=Gae(lam=0.5, whiten=False),
    )
    got = ESTIMATORS["gae"](batch)
    assert got.advantages.tolist() == [[1.0, 0.0, 4.0]]
    assert got.returns is not None
    assert got.returns.tolist() == [[4.0, 0.0, 8.0]]
    same = ESTIMATORS["gae"](replace(batch, gae=Gae(lam=0.5, return_lam=0.5, whiten=False))).returns
    assert same is not None
    assert same.tolist() == [[3.0, 0.0, 8.0]]


def test_missing_inputs_are_named() -> None:
    bare = EstimatorBatch(SCORES, BATCH.groups, MASK)
    with pytest.raises(ValueError, match="greedy_scores"):
        ESTIMATORS["remax"](bare)
    with pytest.raises(ValueError, match="needs values"):
        ESTIMATORS["gae"](bare)
    remax = ESTIMATORS["remax"](BATCH).advantages
    assert remax[0].tolist() == [-1.0, -1.0, 0.0, -1.0]


def test_sequence_estimators_are_registered_under_their_own_functions() -> None:
    for name in ("grpo", "dr_grpo", "grpo_passk", "rloo"):
        expected = getattr(advantages, name)(SCORES, BATCH.groups)
        assert ESTIMATORS[name](BATCH).advantages.amax(-1).tolist() == expected.clamp(min=0).tolist()


def test_loss_reads_is_true() -> None:
    """A field that a loss reads changes its result, a field that it does not read changes nothing."""
    now = torch.log(torch.tensor([[0.4, 0.9, 1.4, 4.0] * 2], dtype=torch.float64))
    adv = torch.tensor([[1.0] * 4 + [-1.0] * 4], dtype=torch.float64)
    other = {"clip_low": 0.3, "clip_high": 0.5, "clip_dual": 2.0, "tau_positive": 2.0, "tau_negative": 2.0}
    assert LOSS_DEFAULTS.keys() == LOSSES.keys()
    for name, loss in LOSSES.items():
        ones = torch.ones(1, 8)

        def result(options: LossOptions, loss: Any = loss, ones: torch.Tensor = ones) -> list[float]:
            rows = [loss(now[:, [k]], now[:, [k]] * 0, adv[:, [k]], ones[:, [k]], options).per_token for k in range(8)]
            return torch.cat(rows).flatten().tolist()

        plain = result(LossOptions())
        changes = {field for field, value in other.items() if result(LossOptions(**{field: value})) != plain}
        assert changes == LOSS_DEFAULTS[name].keys(), name
