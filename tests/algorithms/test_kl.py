"""KL estimates and the controllers of the coefficient."""

from __future__ import annotations

import math

import pytest
import torch

from algorithms.kl import KL_ESTIMATORS, AdaptiveKL, FixedKL, full, k1, k2, k3

LOGITS = torch.tensor([[[0.3, -1.0, 0.8, 0.1], [2.0, 0.0, -2.0, 0.5]]], dtype=torch.float64)
OTHER = torch.tensor([[[0.1, -0.2, 0.5, 0.3], [1.0, 0.5, -1.0, 0.5]]], dtype=torch.float64)


def test_by_hand() -> None:
    policy, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    values = {n: f(policy, reference).item() for n, f in KL_ESTIMATORS.items() if n != "full"}
    expected = {"k1": 0.5, "abs": 0.5, "k2": 0.125, "k3": math.exp(-0.5) - 1 + 0.5}
    assert values == pytest.approx(expected, rel=1e-6)
    values = {n: f(reference, policy).item() for n, f in KL_ESTIMATORS.items() if n != "full"}
    assert values == pytest.approx({"k1": -0.5, "abs": 0.5, "k2": 0.125, "k3": math.exp(0.5) - 1 - 0.5}, rel=1e-6)


def test_full_k1_and_k3_agree_in_expectation_over_the_policy() -> None:
    p, q = LOGITS.log_softmax(-1), OTHER.log_softmax(-1)
    exact = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    assert full(p, q).tolist() == [pytest.approx(exact[0].tolist(), rel=1e-12)]
    for estimate in (k1, k3):
        assert torch.allclose((p.exp() * estimate(p, q)).sum(-1), exact, rtol=1e-12)


def test_full_leaves_out_forbidden_tokens_in_value_and_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    forbidden = torch.tensor([False, True, False, False])
    p = logits.masked_fill(forbidden, float("-inf")).log_softmax(-1)
    q = OTHER.masked_fill(forbidden, float("-inf")).log_softmax(-1)
    kept = ~forbidden
    expected = full(LOGITS[..., kept].log_softmax(-1), OTHER[..., kept].log_softmax(-1))
    assert torch.allclose(full(p, q), expected, rtol=1e-12)
    full(p, q).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_expected_gradients_as_a_loss() -> None:
    """Summed over the policy with its probability held fixed: k1 nothing, k2 that of KL(p || q), k3 of KL(q || p)."""
    q = OTHER.log_softmax(-1)

    def expected(estimate: object) -> torch.Tensor:
        x = LOGITS.clone().requires_grad_()
        p = x.log_softmax(-1)
        (p.detach().exp() * estimate(p, q)).sum().backward()  # pyright: ignore[reportCallIssue]
        assert x.grad is not None
        return x.grad

    def exact(forward: bool) -> torch.Tensor:
        x = LOGITS.clone().requires_grad_()
        p = x.log_softmax(-1)
        (full(q, p) if forward else full(p, q)).sum().backward()
        assert x.grad is not None
        return x.grad

    assert expected(k1).abs().max() < 1e-15
    assert torch.allclose(expected(k2), exact(forward=False), atol=1e-14)
    assert torch.allclose(expected(k3), exact(forward=True), atol=1e-14)


def test_k3_is_bounded_where_the_distributions_are_far_apart() -> None:
    x = torch.tensor([-500.0, 0.0], requires_grad=True)
    value = k3(x, torch.tensor([0.0, -500.0]))
    assert value.tolist() == [10.0, 10.0]
    value.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0]


def test_adaptive_controller_by_hand_and_unchanged_itself() -> None:
    start = AdaptiveKL(coef=0.05, target=0.08, horizon=10_000)
    assert start.update(kl=0.088, n_steps=1000).coef == pytest.approx(0.05 * (1 + 0.1 * 0.1), rel=1e-12)
    assert start.update(kl=80.0, n_steps=1000).coef == pytest.approx(0.05 * 1.02, rel=1e-12)
    assert start.update(kl=0.0, n_steps=1000).coef == pytest.approx(0.05 * 0.98, rel=1e-12)
    assert start.coef == 0.05
    after = start
    for _ in range(200):
        after = after.update(kl=0.2, n_steps=512)
    assert after.coef == pytest.approx(0.05 * (1 + 0.2 * 0.0512) ** 200, rel=1e-9)


def test_controllers_refuse_what_would_corrupt_the_coefficient() -> None:
    for controller in (FixedKL(0.1), AdaptiveKL(0.1, 0.1, 100)):
        with pytest.raises(ValueError, match="KL is nan"):
            controller.update(float("nan"), 10)
    with pytest.raises(ValueError, match="could never grow"):
        AdaptiveKL(0.0, 0.1, 100)
    with pytest.raises(ValueError, match="horizon of 100"):
        AdaptiveKL(0.1, 0.1, 100).update(0.0, 500)
    assert FixedKL(0.1).update(5.0, 10) == FixedKL(0.1)
