"""The loss of one forward pass, by hand."""

import math

import pytest
import torch

from policy.objective import SUMS, Objective, Targets
from schemas.config import Algorithm, Kl, Loss, Mismatch

MASK = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
LOGPROBS = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]])
ENTROPY = torch.tensor([[0.3, 0.2], [0.1, 0.0]])
ADVANTAGES = torch.tensor([[2.0, 2.0], [-1.0, 0.0]])


def targets(**given):
    known = {"mask": MASK, "advantages": ADVANTAGES, "behaviour": LOGPROBS, "reference": None, "proximal": None}
    return Targets(**(known | {"denominator": 3.0} | given))


def run(algorithm, kl_coefficient=0.0, **given):
    logprobs = LOGPROBS.clone().requires_grad_()
    outcome = Objective(algorithm)(logprobs, ENTROPY, targets(**given), kl_coefficient)
    outcome.loss.backward()
    return outcome, dict(zip(SUMS, outcome.sums.tolist(), strict=True)), logprobs.grad


def test_on_policy_the_gradient_is_that_of_reinforce():
    """Ratio 1: loss -A per token, gradient -A / denominator. (-2 - 2 + 1) / 3 = -1."""
    outcome, sums, grad = run(Algorithm(kl=Kl(coefficient=0.0)))
    assert outcome.loss.item() == pytest.approx(-1.0)
    assert grad.tolist() == [[pytest.approx(-2 / 3)] * 2, [pytest.approx(1 / 3), 0.0]]
    assert sums["tokens"] == 3
    assert sums["ratio"] == pytest.approx(3)
    assert sums["entropy"] == pytest.approx(0.6)
    assert sums["mismatch"] == sums["kl"] == 0


def test_supervised_training_is_weighted_cross_entropy():
    outcome, sums, grad = run(None)
    assert outcome.loss.item() == pytest.approx((2 * 1 + 2 * 2 - 0.5) / 3)
    assert grad.tolist() == [[pytest.approx(-2 / 3)] * 2, [pytest.approx(1 / 3), 0.0]]
    assert sums["loss"] == pytest.approx(outcome.loss.item())
    assert sums["tokens"] == 3


def test_sequence_weights():
    """Row 1 has two tokens of weight 1/2, row 2 one of weight 1: (-2 + 1) / 2 rows."""
    loss = Loss(denominator="sequence")
    outcome, _, _ = run(Algorithm(loss=loss), denominator=2.0)
    assert outcome.loss.item() == pytest.approx(-0.5)


def test_the_reference_term_by_hand():
    """k3 with log-ratio reference - policy = 0.5 on the first token alone: e^0.5 - 0.5 - 1."""
    reference = LOGPROBS + torch.tensor([[0.5, 0.0], [0.0, 7.0]])  # the last is outside the mask
    algorithm = Algorithm(kl=Kl(coefficient=0.1, estimator="k3"))
    outcome, sums, grad = run(algorithm, 0.2, reference=reference)
    kl = math.exp(0.5) - 1.5
    assert sums["kl"] == pytest.approx(kl)
    assert outcome.loss.item() == pytest.approx(-1.0 + 0.2 * kl / 3)
    # d k3 / d logprob = 1 - e^(reference - logprob)
    assert grad[0, 0].item() == pytest.approx(-2 / 3 + 0.2 * (1 - math.exp(0.5)) / 3)
    assert sums["policy_loss"] == pytest.approx(-1.0)


def test_a_ratio_beyond_the_clip_has_no_gradient():
    proximal = LOGPROBS - torch.tensor([[0.5, 0.0], [0.0, 0.0]])  # ratio e^0.5 with a positive advantage
    _, sums, grad = run(Algorithm(), proximal=proximal)
    assert grad[0, 0].item() == 0
    assert grad[0, 1].item() == pytest.approx(-2 / 3)
    assert sums["clip_high"] == 1
    assert sums["ratio"] == pytest.approx(2 + math.exp(0.5))


def test_the_entropy_bonus_by_hand():
    objective = Objective(Algorithm(loss=Loss(entropy_coefficient=0.5)))
    assert objective.entropy_in_loss
    entropy = ENTROPY.clone().requires_grad_()
    outcome = objective(LOGPROBS, entropy, targets(), 0.0)
    outcome.loss.backward()
    assert outcome.loss.item() == pytest.approx(-1.0 - 0.5 * 0.6 / 3)
    assert entropy.grad.tolist() == [[pytest.approx(-0.5 / 3)] * 2, [pytest.approx(-0.5 / 3), 0.0]]
    assert not Objective(None).entropy_in_loss


def test_mismatch_is_measured_always_and_corrected_when_asked():
    """Learner before the update against sampler: e^1 on one token, cut at 2; e^-1 on another, kept."""
    behaviour = LOGPROBS - torch.tensor([[1.0, -1.0], [0.0, 5.0]])
    plain, sums, _ = run(Algorithm(), behaviour=behaviour)
    assert plain.loss.item() == pytest.approx(-1.0)
    assert sums["mismatch"] == pytest.approx(2.0)
    assert sums["mismatch_limited"] == 0
    assert plain.largest_mismatch.item() == pytest.approx(1.0)
    corrected, sums, _ = run(Algorithm(mismatch=Mismatch(limit=2.0)), behaviour=behaviour)
    assert corrected.loss.item() == pytest.approx((-2 * 2 - 2 * math.exp(-1) + 1) / 3)
    assert sums["mismatch_limited"] == 1


def test_nothing_trained_is_a_loss_of_zero_with_a_graph():
    nothing = torch.zeros(1, 1)
    logprobs = nothing.clone().requires_grad_()
    outcome = Objective(Algorithm())(
        logprobs, nothing, Targets(nothing, nothing, nothing, nothing, None, denominator=1.0), 0.1
    )
    outcome.loss.backward()
    assert outcome.loss.item() == 0
    assert logprobs.grad.item() == 0
