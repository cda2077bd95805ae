"""Log-probabilities of the targets against the stock forward pass of transformers."""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from pointing.drawing import decode_png
from policy.network import forward
from policy.network.collate import Collator, PixelCache, rows_of
from policy.network.forward import PolicyModule, token_logprobs
from policy.network.load import load
from policy.tiny.model import build_tiny
from schemas.config import Model
from tests.policy.batches import ARCHITECTURES, assert_same_gradients, make_batch

TEMPERATURE = 0.7


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp(request.param), request.param, scale=1.5))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp("tiny"), scale=1.5))


def stock_logits(folder, row, images):
    """Logits [L, V] by the stock model and the stock image processor, its own positions included."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    ids = torch.from_numpy(row.ids.astype(np.int64))[None]
    given = {}
    if row.digests:
        png = dict(zip(images["digest"].to_pylist(), images["png"].to_pylist(), strict=True))
        pictures = [decode_png(png[digest]) for digest in row.digests]
        given = dict(AutoImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt"))
        given["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        return model(input_ids=ids, **given).logits[0]


def expected_logprobs(folder, row, images, forbidden):
    logits = stock_logits(folder, row, images) / TEMPERATURE
    logits[:, list(forbidden)] = -torch.inf
    where = torch.from_numpy(np.flatnonzero(row.mask))
    ids = torch.from_numpy(row.ids.astype(np.int64))[where]
    distributions = logits[where - 1].log_softmax(-1)
    return distributions.gather(-1, ids[:, None])[:, 0], distributions


def test_log_probabilities_are_the_stock_models(folder):
    """Rows of two images, of none, and of different lengths, padded and packed."""
    loaded = load(Model(path=folder))
    policy = PolicyModule(loaded, TEMPERATURE)
    with_images, images = make_batch(folder, groups=1)
    without, _ = make_batch(folder, groups=1, samples=1, images=False)
    rows = [*rows_of(with_images), *rows_of(without)]
    expected, distributions = map(
        torch.cat, zip(*(expected_logprobs(folder, row, images, loaded.forbidden_ids) for row in rows), strict=True)
    )
    finite = distributions.masked_fill(distributions == -torch.inf, 0.0)
    for layout in ("padded", "packed"):
        collator = Collator(loaded.image_token_id, loaded.image_stats, layout)
        inputs = collator.collate(rows, PixelCache.from_tables([images]))
        with torch.no_grad():
            logprobs, entropy = policy(inputs)
        torch.testing.assert_close(logprobs, expected, atol=2e-5, rtol=0)
        torch.testing.assert_close(entropy, -(finite.exp() * finite).sum(-1), atol=2e-5, rtol=0)
    assert expected.std() > 0.1  # a uniform model would agree with anything


def test_a_neighbour_changes_nothing(tiny):
    """Rows of one forward pass do not see one another: the packed layout's failure, and padding's."""
    loaded = load(Model(path=tiny))
    policy = PolicyModule(loaded, 1.0)
    table, images = make_batch(tiny, groups=1, sizes=((2, 2),))
    rows, cache = rows_of(table), PixelCache.from_tables([images])
    for layout in ("padded", "packed"):
        collator = Collator(loaded.image_token_id, loaded.image_stats, layout)
        alone = [token_logprobs(policy, collator.collate([row], cache)) for row in rows]
        together = token_logprobs(policy, collator.collate(rows, cache))
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def collated(tiny, loaded):
    table, images = make_batch(tiny, groups=1)
    collator = Collator(loaded.image_token_id, loaded.image_stats)
    return collator.collate(rows_of(table), PixelCache.from_tables([images]))


def gradients(policy, inputs, with_entropy):
    policy.zero_grad()
    logprobs, entropy = policy(inputs, with_entropy)
    (logprobs.square().sum() + (entropy.sum() if with_entropy else 0)).backward()
    grads = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    return logprobs.detach(), entropy.detach(), grads


@pytest.mark.parametrize("with_entropy", [False, True])
def test_chunks_of_the_head_change_nothing(tiny, monkeypatch, with_entropy):
    loaded = load(Model(path=tiny))
    policy = PolicyModule(loaded, TEMPERATURE).train()
    inputs = collated(tiny, loaded)
    whole = gradients(policy, inputs, with_entropy)
    monkeypatch.setattr(forward, "CHUNK_LOGITS", 5 * loaded.vocab_size)
    assert inputs.n_targets > 10
    chunked = gradients(policy, inputs, with_entropy)
    torch.testing.assert_close(chunked[:2], whole[:2], atol=1e-6, rtol=0)
    assert_same_gradients(chunked[2], whole[2], tolerance=1e-6)


def test_chunks_bound_the_memory_of_the_head(tiny, monkeypatch):
    """Forward and backward over 8192 targets: whole logits take 15 MB a copy, a chunk of 64 takes 0.1 MB."""
    loaded = load(Model(path=tiny))
    policy = PolicyModule(loaded, TEMPERATURE).train()
    ids = torch.randint(0, 50, (8192,), generator=torch.Generator().manual_seed(0))
    logits = len(ids) * loaded.vocab_size * 4

    def peak():
        hidden = torch.randn(len(ids), 128, requires_grad=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            policy.score(hidden, ids, False)[0].sum().backward()
        events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
        return max(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]))

    whole = peak()
    monkeypatch.setattr(forward, "CHUNK_LOGITS", 64 * loaded.vocab_size)
    chunked = peak()
    assert whole > 2 * logits
    assert chunked < logits, f"{chunked} bytes; all logits are {logits}, and the hidden states' gradient a third of it"


def test_entropy_beside_the_graph_needs_no_gradient(tiny):
    loaded = load(Model(path=tiny))
    policy = PolicyModule(loaded, 1.0)
    inputs = collated(tiny, loaded)
    assert not policy(inputs)[1].requires_grad
    assert policy(inputs, with_entropy=True)[1].requires_grad


def test_checkpointing_changes_no_gradient(tiny):
    inputs = collated(tiny, load(Model(path=tiny)))
    found = []
    for checkpointing in (False, True):
        loaded = load(Model(path=tiny, gradient_checkpointing=checkpointing))
        found.append(gradients(PolicyModule(loaded, 1.0).train(), inputs, False))
    assert_same_gradients(found[1][2], found[0][2])


def test_the_vision_tower_takes_part_without_images(tiny):
    """Sharded ranks must run the same blocks: a text-only batch gives it gradients of exactly 0, not none."""
    loaded = load(Model(path=tiny))
    policy = PolicyModule(loaded, 1.0)
    table, _ = make_batch(tiny, groups=1, images=False)
    inputs = Collator(loaded.image_token_id, loaded.image_stats).collate(rows_of(table), PixelCache({}))
    _, _, grads = gradients(policy, inputs, False)
    vision = {name: grad for name, grad in grads.items() if ".visual." in name}
    assert len(vision) == sum(".visual." in name for name, _ in policy.named_parameters())
    assert not any(grad.any() for grad in vision.values())


def test_the_temperature_must_be_above_zero(tiny):
    with pytest.raises(ValueError, match=r"temperature=0\.0"):
        PolicyModule(load(Model(path=tiny)), 0.0)
