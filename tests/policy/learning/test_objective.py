"""The loss of one forward pass, by hand."""

import math

import pytest
import torch

from policy.learning.objective import Objective, Targets
from policy.learning.sums import SUMS
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
    assert sums["mismatch"] == sums["kl"] == sums["kl_tokens"] == 0


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
    assert sums["kl_tokens"] == 3
    assert outcome.loss.item() == pytest.approx(-1.0 + 0.2 * kl / 3)
    # d k3 / d logprob = 1 - e^(reference - logprob)
    assert grad[0, 0].item() == pytest.approx(-2 / 3 + 0.2 * (1 - math.exp(0.5)) / 3)
    assert sums["policy_loss"] == pytest.approx(-1.0)


def test_a_reference_term_in_the_reward_is_measured_here_and_not_added():
    reference = LOGPROBS + torch.tensor([[0.5, 0.0], [0.0, 7.0]])
    outcome, sums, grad = run(Algorithm(kl=Kl(place="reward", estimator="k1")), 0.2, reference=reference)
    assert sums["kl"] == pytest.approx(-0.5)
    assert outcome.loss.item() == pytest.approx(-1.0)
    assert grad.tolist() == [[pytest.approx(-2 / 3)] * 2, [pytest.approx(1 / 3), 0.0]]


def test_a_ratio_beyond_the_clip_has_no_gradient():
    proximal = LOGPROBS - torch.tensor([[0.5, 0.0], [0.0, 0.0]])  # ratio e^0.5 with a positive advantage
    _, sums, grad = run(Algorithm(), proximal=proximal)
    assert grad[0, 0].item() == 0
    assert grad[0, 1].item() == pytest.approx(-2 / 3)
    assert sums["clip_high"] == 1
    assert sums["ratio"] == pytest.approx(2 + math.exp(0.5))


# Log ratios: row 1 (A = 2) log 1.5 and 0, row 2 (A = -1) log 0.5 on its one token. Per token, before / 3:
PROXIMAL = LOGPROBS - torch.tensor([[math.log(1.5), 0.0], [math.log(0.5), 9.0]])
S = math.sqrt(1.5)  # row 1's ratio as a sequence: the geometric mean of 1.5 and 1


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("loss", "expected", "gradient"),
    [
        # -2 x 1.2 (held: no gradient), -2 x 1; 1 x 0.8 (held)
        (Loss(), -2.4 - 2 + 0.8, [0, -2, 0]),
        # one ratio per row, whose gradient is S / 2 per token
        (Loss(name="gspo", clip_low=0.6, clip_high=0.5), -4 * S + 0.5, [-2 * S, -2 * S, 0.5]),
        (Loss(name="gspo_token", clip_low=0.6, clip_high=0.5), -4 * S + 0.5, [-2 * S, -2 * S, 0.5]),
        (Loss(name="gspo"), -4 * 1.0004 + 0.9997, [0, 0, 0]),  # far beyond the bounds that belong to it
        # weights 1.2, 1 and 0.5 on -A log pi; every token keeps its gradient
        (Loss(name="cispo"), -2 * 1.2 * -1 - 2 * -2 + 0.5 * -0.5, [-2.4, -2, 0.5]),
        (
            Loss(name="sapo", tau_positive=2.0, tau_negative=1.0),
            -4 * sigmoid(1) - 4 * 0.5 + 4 * sigmoid(-0.5),
            # -A 4 r sigmoid(x) (1 - sigmoid(x)), x = tau (r - 1)
            [-8 * 1.5 * sigmoid(1) * sigmoid(-1), -8 * 0.25, 4 * 0.5 * sigmoid(-0.5) * sigmoid(0.5)],
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Loss) else "",
)
def test_every_loss_by_hand(loss, expected, gradient):
    outcome, _, grad = run(Algorithm(loss=loss), proximal=PROXIMAL)
    assert outcome.loss.item() == pytest.approx(expected / 3, rel=1e-5)
    assert grad.tolist() == [
        [pytest.approx(g / 3, rel=1e-5, abs=1e-7) for g in gradient[:2]],
        [pytest.approx(gradient[2] / 3, rel=1e-5, abs=1e-7), 0.0],
    ]


def test_a_loss_without_a_dual_clip_counts_none():
    proximal = LOGPROBS - torch.tensor([[0.0, 0.0], [math.log(4.0), 0.0]])  # A < 0 at a ratio of 4
    assert run(Algorithm(), proximal=proximal)[1]["clip_dual"] == 1
    assert run(Algorithm(loss=Loss(name="cispo")), proximal=proximal)[1]["clip_dual"] == 0


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
    for each in (run(Algorithm(), behaviour=behaviour)[1], sums):  # logged with and without the correction
        assert each["mismatch_ratio"] == pytest.approx(math.e + math.exp(-1) + 1)
        assert each["mismatch_kl"] == pytest.approx(math.e + math.exp(-1) + 1 - 3)


@pytest.mark.parametrize(
    ("mismatch", "weights"),
    [
        (Mismatch(mode="mask", limit=2.0), [0, 0, 1]),  # e and 1/e lie outside [1/2, 2]
        (Mismatch(mode="mask", limit=2.0, low=0.1), [0, math.exp(-1), 1]),
        (Mismatch(mode="mask", level="sequence", limit=1.5), [1, 1, 1]),  # e x 1/e
    ],
)
def test_masked_tokens_have_no_gradient(mismatch, weights):
    behaviour = LOGPROBS - torch.tensor([[1.0, -1.0], [0.0, 5.0]])
    outcome, sums, grad = run(Algorithm(mismatch=mismatch), behaviour=behaviour)
    assert outcome.loss.item() == pytest.approx((-2 * weights[0] - 2 * weights[1] + weights[2]) / 3)
    assert grad.tolist() == [[pytest.approx(-2 * w / 3) for w in weights[:2]], [pytest.approx(weights[2] / 3), 0.0]]
    assert sums["mismatch_limited"] == weights.count(0)


def test_nothing_trained_is_a_loss_of_zero_with_a_graph():
    nothing = torch.zeros(1, 1)
    logprobs = nothing.clone().requires_grad_()
    outcome = Objective(Algorithm())(
        logprobs, nothing, Targets(nothing, nothing, nothing, nothing, None, denominator=1.0), 0.1
    )
    outcome.loss.backward()
    assert outcome.loss.item() == 0
    assert logprobs.grad.item() == 0
