"""AdamW with moments in bfloat16: by its definition, right on average, training and resuming like the other."""

from __future__ import annotations

import pytest
import torch

from policy.learning import bf16_adamw
from policy.learning.bf16_adamw import MOMENTS, BFloat16AdamW, stochastic_bfloat16
from policy.learning.learner import PolicyLearner
from policy.tiny.model import build_tiny
from schemas.config import Learner, Model, Optimiser
from tests.policy.batches import make_batch


def test_rounding_goes_to_a_neighbour_and_is_right_on_average():
    generator = torch.Generator().manual_seed(0)
    low, high = 1.0, 1.0 + 2**-7  # neighbours in bfloat16
    for share in (0.1, 0.5, 0.8):
        for sign in (1.0, -1.0):
            x = torch.full((40_000,), sign * (low + share * (high - low)))
            rounded = stochastic_bfloat16(x, generator).float() * sign
            assert set(rounded.tolist()) == {low, high}
            assert (rounded == high).float().mean().item() == pytest.approx(share, abs=0.01)  # 4 standard errors


def test_what_bfloat16_holds_is_left_as_it_is():
    held = torch.randn(1000, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    assert torch.equal(stochastic_bfloat16(held.float(), torch.Generator()), held)


@pytest.mark.parametrize("piece", [1, 7, 1 << 24])
@pytest.mark.parametrize("shape", [(5, 3), (4,), (), (0, 3)])
def test_the_first_step_is_that_of_adamw_exactly_up_to_rounding(shape, piece, monkeypatch):
    """The step uses the moments before they are rounded, and the first ones start from 0. Pieces change nothing."""
    monkeypatch.setattr(bf16_adamw, "PIECE", piece)
    start, gradient = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    half, full = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    options = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.3}
    for p, optimiser in ((half, BFloat16AdamW), (full, torch.optim.AdamW)):
        p.grad = gradient.clone()
        optimiser([p], **options).step()
    torch.testing.assert_close(half.detach(), full.detach(), rtol=1e-6, atol=1e-6)


def test_a_second_moment_that_rounding_to_nearest_would_stop_decays():
    """Gradient 1, then 0 for 700 steps at beta2 0.999: 0.001 x 0.999^700 = 0.000497; to nearest it would stay 0.001."""
    p = torch.nn.Parameter(torch.zeros(4000))
    optimiser = BFloat16AdamW([p], lr=0.0, betas=(0.9, 0.999), eps=1e-8)
    p.grad = torch.ones(4000)
    optimiser.step()
    p.grad = torch.zeros(4000)
    for _ in range(700):
        optimiser.step()
    assert optimiser.state[p]["exp_avg_sq"].float().mean().item() == pytest.approx(0.001 * 0.999**700, rel=0.02)


def test_it_finds_the_minimum_that_adamw_finds():
    torch.manual_seed(4)
    features, truth = torch.randn(256, 8), torch.randn(8, 1)
    losses = {}
    for optimiser in (BFloat16AdamW, torch.optim.AdamW):
        p = torch.nn.Parameter(torch.zeros(8, 1))
        taken = optimiser([p], lr=0.05, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
        for _ in range(400):
            taken.zero_grad()
            loss = (features @ p - features @ truth).square().mean()
            loss.backward()
            taken.step()
        losses[optimiser.__name__] = loss.item()
    assert losses["BFloat16AdamW"] < 1e-4 > losses["AdamW"]


def moments_after(seed, *, steps=1, copies=1):
    """The moments of `copies` equal parameters of 4,000 numbers, in a process whose own generators start at `seed`."""
    torch.manual_seed(seed)
    gradient = torch.randn(4000, generator=torch.Generator().manual_seed(6))
    parameters = [torch.nn.Parameter(torch.zeros(4000)) for _ in range(copies)]
    optimiser = BFloat16AdamW(parameters, lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    for _ in range(steps):
        for p in parameters:
            p.grad = gradient.clone()
        optimiser.step()
    return [optimiser.state[p]["exp_avg_sq"].float() for p in parameters]


def test_rounding_is_decided_by_the_parameter_and_the_step_and_by_nothing_of_the_process():
    first, again = moments_after(1, copies=2), moments_after(2, copies=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(*first), "equal parameters are rounded independently"
    up = [(second > moment).float() for second, moment in zip(first, reversed(first), strict=True)]
    assert 0.05 < up[0].mean().item() < 0.25  # a quarter at most differs each way


def test_each_step_rounds_anew():
    """The same number rounded twice with the same draw would be moved the same way at every step."""
    p = torch.nn.Parameter(torch.zeros(20_000))
    optimiser = BFloat16AdamW([p], lr=0.0, betas=(0.0, 0.0), eps=1.0)
    p.grad = torch.full((20_000,), 1.0 + 2**-8)  # halfway between neighbours: beta 0 leaves the gradient itself
    rounded = []
    for _ in range(2):
        optimiser.step()
        rounded.append(optimiser.state[p]["exp_avg"] > 1)
    assert (rounded[0] == rounded[1]).float().mean().item() == pytest.approx(0.5, abs=0.015)  # 4 standard errors


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp("tiny")))


def learner_of(folder, state_dtype):
    options = Optimiser(lr=3e-3, warmup_steps=2, state_dtype=state_dtype)
    return PolicyLearner(Model(path=folder), Learner(optimiser=options), None, total_steps=20, temperature=1.0)


def test_it_trains_the_policy_and_a_checkpoint_brings_it_back_bit_by_bit(tiny, tmp_path):
    table, images = make_batch(tiny, groups=1)
    half, full = learner_of(tiny, "bfloat16"), learner_of(tiny, "float32")
    start = half.update(table, [images], 0.0).means.loss
    full.update(table, [images], 0.0)
    half.save(str(tmp_path / "one"), {})
    after = [half.update(table, [images], 0.0) for _ in range(6)]
    plain = [full.update(table, [images], 0.0) for _ in range(6)]
    gain = start - after[-1].means.loss
    assert gain > 0.1 * abs(start)
    assert gain == pytest.approx(start - plain[-1].means.loss, rel=0.05)

    resumed = learner_of(tiny, "bfloat16")
    resumed.load(str(tmp_path / "one"))
    torch.manual_seed(99)  # what else draws random numbers in the process is nothing to the moments
    assert [resumed.update(table, [images], 0.0) for _ in range(6)] == after
    for (name, a), b in zip(half.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b), name
    for state in (*half.optimiser.state.values(), *resumed.optimiser.state.values()):
        assert {state[name].dtype for name in MOMENTS} == {torch.bfloat16}
