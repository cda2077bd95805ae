"""Attention by starts: against a slow oracle, against transformers' own, and what it never does."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from policy.network import attention
from policy.network.collate import Collator, PixelCache, rows_of
from policy.network.forward import PolicyModule
from policy.network.load import base_model, load, vision_tower
from policy.tiny.model import build_tiny
from schemas.config import Model
from tests.policy.batches import ARCHITECTURES, make_batch


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp(request.param), request.param))


def inputs_of(folder, loaded, layout):
    table, images = make_batch(folder, groups=2)
    collator = Collator(loaded.image_token_id, loaded.image_stats, layout)
    return collator.collate(rows_of(table), PixelCache.from_tables([images]))


def slow(query, key, value, lengths, causal, scale):
    """Softmax of products, one sequence, head and token at a time."""
    out, start = torch.zeros_like(query), 0
    group = query.shape[1] // key.shape[1]
    for length in lengths:
        for head in range(query.shape[1]):
            keys, values = (x[start : start + length, head // group] for x in (key, value))
            for token in range(length):
                seen = token + 1 if causal else length
                products = (keys[:seen] @ query[start + token, head]) * scale
                out[start + token, head] = products.softmax(-1) @ values[:seen]
        start += length
    return out


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_sequence_attends_to_itself_alone(lengths, heads, causal, seed):
    random = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    query, key, value = (
        torch.randn(tokens, n, 8, dtype=torch.float64, generator=random, requires_grad=True)
        for n in (heads[0], heads[1], heads[1])
    )
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    found = attention.attend(query, key, value, starts, max(lengths), causal=causal, scale=0.3)
    expected = slow(query, key, value, lengths, causal, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    weight = torch.randn(found.shape, dtype=torch.float64, generator=random)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), (query, key, value)),
        torch.autograd.grad((expected * weight).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("other", ["sdpa", "eager"])
def test_log_probabilities_and_gradients_are_those_of_transformers_own(folder, layout, other):
    outcomes = []
    for name in ("varlen", other):
        loaded = load(Model(path=folder, attention=name))
        policy = PolicyModule(loaded, 1.0)
        logprobs, _ = policy(inputs_of(folder, loaded, layout))
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
        outcomes.append((logprobs.detach(), {name: p.grad for name, p in policy.named_parameters()}))
    (found, grads), (expected, expected_grads) = outcomes
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for name, grad in expected_grads.items():
        scale = grad.abs().max().item() + 1e-6
        torch.testing.assert_close(grads[name] / scale, grad / scale, atol=1e-5, rtol=0, msg=name)


class Shapes(TorchDispatchMode):
    """Notes the last two sizes of every tensor that is computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.ndim >= 2:
                self.seen.add(tuple(tensor.shape[-2:]))
        return out


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_no_mask_is_built_and_attention_is_called_once_a_block(folder, layout, monkeypatch):
    calls = Counter()
    plain = attention.attend

    def counted(*tensors, causal, scale):
        calls["text" if causal else "vision"] += 1
        return plain(*tensors, causal=causal, scale=scale)

    monkeypatch.setattr(attention, "attend", counted)
    loaded = load(Model(path=folder), trainable=False)
    inputs = inputs_of(folder, loaded, layout)
    with Shapes() as shapes, torch.no_grad():
        PolicyModule(loaded, 1.0)(inputs)
    width = inputs.input_ids.shape[1]
    assert (width, width) not in shapes.seen
    layers = base_model(loaded.model).model.language_model.layers
    assert calls == {"text": len(layers), "vision": len(vision_tower(loaded.model).blocks)}


def test_the_stock_path_does_build_a_mask(folder):
    """What the test above looks for is seen where it is."""
    loaded = load(Model(path=folder, attention="sdpa"), trainable=False)
    inputs = inputs_of(folder, loaded, "packed")
    with Shapes() as shapes, torch.no_grad():
        PolicyModule(loaded, 1.0)(inputs)
    assert (inputs.input_ids.shape[1],) * 2 in shapes.seen


def test_a_mask_is_refused():
    tensor = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="attention=sdpa"):
        attention._varlen(None, tensor, tensor, tensor, tensor, cu_seq_lens_q=torch.tensor([0, 3]), max_length_q=3)


def test_sixteen_bit_tensors_on_a_gpu_go_to_the_kernel_in_one_call(monkeypatch):
    """Without a GPU: tensors that say that they are on one, and the kernel's arguments."""
    given = []

    class OnGpu(torch.Tensor):
        is_cuda = property(lambda self: True)

    def kernel(*arguments, **options):
        given.append((arguments, options))
        return arguments[0]

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    query = torch.zeros(5, 4, 8, dtype=torch.bfloat16).as_subclass(OnGpu)
    key = torch.zeros(5, 2, 8, dtype=torch.bfloat16).as_subclass(OnGpu)
    starts = torch.tensor([0, 3, 5], dtype=torch.int32)
    attention.attend(query, key, key, starts, 3, causal=True, scale=0.5)
    attention.attend(query, query, query, starts, 3, causal=False, scale=None)
    (first, options), (_, other) = given
    assert (first[3] is starts, first[4] is starts, first[5:]) == (True, True, (3, 3))
    assert options == {"scale": 0.5, "window_size": (-1, 0), "enable_gqa": True}
    assert other == {"scale": None, "window_size": (-1, -1), "enable_gqa": False}


def test_heads_are_repeated_for_a_kernel_that_takes_no_groups(monkeypatch):
    given = []
    monkeypatch.setattr(
        attention, "varlen_attn", lambda *tensors, **options: given.append((tensors, options)) or tensors[0]
    )
    monkeypatch.setattr(attention, "_GROUPED", False)

    class OnGpu(torch.Tensor):
        is_cuda = property(lambda self: True)

    query = torch.zeros(3, 4, 8, dtype=torch.bfloat16).as_subclass(OnGpu)
    key = torch.arange(2, dtype=torch.bfloat16).view(1, 2, 1).expand(3, 2, 8).as_subclass(OnGpu)
    attention.attend(query, key, key, torch.tensor([0, 3], dtype=torch.int32), 3, causal=True, scale=None)
    ((_, repeated, *_), options) = given[0]
    assert repeated[0, :, 0].tolist() == [0, 0, 1, 1]  # heads 0 and 1 of the query read head 0 of the keys
    assert "enable_gqa" not in options
