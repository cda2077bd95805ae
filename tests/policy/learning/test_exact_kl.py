"""The exact KL: by its definition over whole logits, in any chunks and splits, pulling the policy to the reference."""

from __future__ import annotations

import pytest
import torch

from algorithms.kl import full
from policy.learning.exact_kl import ExactReference
from policy.learning.learner import PolicyLearner
from policy.network import forward
from policy.network.collate import Collator, PixelCache, rows_of
from policy.network.forward import IMPOSSIBLE, PolicyModule
from policy.network.load import base_model, load
from policy.tiny.model import build_tiny
from schemas.config import Algorithm, Kl, Learner, Lora, Model, Optimiser, Sharding
from tests.policy.batches import ARCHITECTURES, assert_same_gradients, make_batch, replace, split

TEMPERATURE = 0.7
EXACT = Algorithm(kl=Kl(coefficient=0.5, estimator="full"))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp(request.param), request.param, scale=1.5))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp("tiny"), scale=1.5))


def reference_of(folder):
    return ExactReference(Model(path=folder), Sharding(), "cpu")


def perturbed(module, size=0.02):
    """The network a few steps away from where it started."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in module.parameters():
            p += size * torch.randn(p.shape, generator=generator)
    return module


def inputs_of(folder, loaded):
    table, images = make_batch(folder, groups=1)
    collator = Collator(loaded.image_token_id, loaded.image_stats, "padded")
    return collator.collate(rows_of(table), PixelCache.from_tables([images]))


def distributions(module, inputs):
    """Whole log-probabilities [N, V] of a policy, at once."""
    logits = base_model(module.model).lm_head(module.hidden_states(inputs)) / TEMPERATURE
    return logits.masked_fill(module._forbidden, IMPOSSIBLE).log_softmax(-1)


def test_it_is_the_sum_over_the_vocabulary(folder):
    loaded = load(Model(path=folder))
    policy = perturbed(PolicyModule(loaded, TEMPERATURE))
    inputs = inputs_of(folder, loaded)
    start = PolicyModule(load(Model(path=folder)), TEMPERATURE)
    logprobs, entropy, kl = policy(inputs, False, reference_of(folder)(inputs))
    with torch.no_grad():
        ours, others = distributions(policy, inputs), distributions(start, inputs)
    torch.testing.assert_close(kl, full(ours, others), atol=1e-5, rtol=1e-4)
    assert 1e-3 < kl.mean() < 5
    torch.testing.assert_close((logprobs, entropy), policy(inputs), atol=1e-6, rtol=0)


def test_of_the_reference_itself_it_is_zero(tiny):
    loaded = load(Model(path=tiny))
    inputs = inputs_of(tiny, loaded)
    kl = PolicyModule(loaded, TEMPERATURE)(inputs, False, reference_of(tiny)(inputs))[2]
    assert kl.abs().max() < 1e-6


def test_the_mean_of_k1_over_draws_is_the_exact_kl(tiny):
    """The estimators in the configuration estimate this number: 4000 draws from the policy at every token."""
    loaded = load(Model(path=tiny))
    policy, start = perturbed(PolicyModule(loaded, TEMPERATURE)), PolicyModule(load(Model(path=tiny)), TEMPERATURE)
    inputs = inputs_of(tiny, loaded)
    with torch.no_grad():
        ours, others = distributions(policy, inputs), distributions(start, inputs)
        drawn = torch.multinomial(ours.exp(), 4000, replacement=True, generator=torch.Generator().manual_seed(1))
        estimate = (ours - others).gather(-1, drawn)
        exact = policy(inputs, False, reference_of(tiny)(inputs))[2]
    errors = (estimate.mean(-1) - exact) / (estimate.std(-1) / 4000**0.5)
    assert errors.abs().max() < 4.5
    assert errors.abs().mean() < 1.2


def test_chunks_change_nothing_and_hold_the_memory_down(tiny, monkeypatch):
    loaded = load(Model(path=tiny))
    policy = perturbed(PolicyModule(loaded, TEMPERATURE)).train()
    inputs = inputs_of(tiny, loaded)
    states = reference_of(tiny)(inputs)
    shapes = set()

    def watched(ours, others):
        shapes.add(tuple(ours.shape))
        return full(ours, others)

    monkeypatch.setattr(forward, "full", watched)
    found = []
    for limit in (forward.CHUNK_LOGITS, 2 * 3 * loaded.vocab_size):  # room for three targets of both models
        monkeypatch.setattr(forward, "CHUNK_LOGITS", limit)
        policy.zero_grad()
        kl = policy(inputs, False, states)[2]
        kl.sum().backward()
        found.append((kl.detach(), {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-6, rtol=1e-5)
    assert_same_gradients(found[1][1], found[0][1])
    assert shapes == {(n, loaded.vocab_size) for n in (inputs.n_targets, 3, inputs.n_targets % 3 or 3)}


def learner_of(folder, *, lr=1e-2, **model):
    return PolicyLearner(
        Model(path=folder, **model),
        Learner(optimiser=Optimiser(lr=lr, eps=1e-2, max_grad_norm=1e6)),
        EXACT,
        total_steps=10,
        temperature=TEMPERATURE,
        device="cpu",
    )


def gradient_of(learner, table, images):
    found = {}

    def record():
        found.update({n: p.grad.clone() for n, p in learner.policy.named_parameters() if p.grad is not None})

    learner.optimiser.step = record
    report = learner.update(table, [images], 0.5)
    return found, report


def test_no_split_changes_the_gradient_and_no_reference_column_is_needed(tiny):
    table, images = make_batch(tiny)
    table = replace(table, reference_logprobs=[None] * table.num_rows)
    learner = learner_of(tiny)
    perturbed(learner.policy)
    whole, report = gradient_of(learner, table, images)
    assert report.means.kl > 1e-3
    for rows in (1, 4):
        found, other = gradient_of(learner, split(table, 1, rows), images)
        assert_same_gradients(found, whole)
        assert other.numbers() == pytest.approx(report.numbers(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full", "lora"])
def test_alone_it_pulls_the_policy_back(tiny, lora):
    """Advantages of 0: what is left of the loss is the KL, and it falls. Adapters start at the reference exactly."""
    table, images = make_batch(tiny, groups=1)
    table = replace(
        table,
        advantages=[[0.0] * len(ids) for ids in table["token_ids"].to_pylist()],
        reference_logprobs=[None] * table.num_rows,
    )
    learner = learner_of(tiny, lora=lora)
    first = learner.update(table, [images], 0.5)
    assert first.means.kl == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for name, p in learner.policy.named_parameters():
            if p.requires_grad and (lora is None or "lora_B" in name):
                p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    reports = [learner.update(table, [images], 0.5) for _ in range(5)]
    assert reports[0].means.kl > 1e-3
    assert reports[-1].means.kl < 0.7 * reports[0].means.kl
    assert reports[0].means.loss == pytest.approx(0.5 * reports[0].means.kl, rel=1e-4)


def test_a_checkpoint_brings_the_coefficient_s_measure_back_bit_by_bit(tiny, tmp_path):
    table, images = make_batch(tiny, groups=1)
    straight = learner_of(tiny)
    straight.update(table, [images], 0.5)
    straight.save(str(tmp_path / "one"), {})
    expected = straight.update(table, [images], 0.5)
    resumed = learner_of(tiny)
    resumed.load(str(tmp_path / "one"))
    again = resumed.update(table, [images], 0.5)
    assert again == expected
    assert again.means.kl > 0  # the reference is the model that training started from, not the checkpoint's
