"""Operations against torch's own counter on real passes, and by hand."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from policy.network import forward
from policy.network import operations as counted
from policy.network.collate import Collator, PixelCache, Row
from policy.network.forward import PolicyModule
from policy.network.load import load, vision_tower
from policy.network.operations import Passes, Rates, Work, network_rates, operations, rates_of
from policy.tiny.model import build_tiny
from schemas.config import Lora, Model
from tests.policy.batches import ARCHITECTURES, Maker
from tests.policy.real_sizes import SEVEN, THREE, write_sizes

TOLERANCE = 0.001  # for whatever else a version of transformers may compute by a product of matrices; today nothing


def windowed(folder):
    """A tower whose blocks attend in windows of 2 x 2 visual tokens, but for the last."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["vision_config"] |= {"window_size": 56, "fullatt_block_indexes": [3]}
    file.write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "windows"])
def folder(request, tmp_path_factory):
    name = "qwen2_5_vl" if request.param == "windows" else request.param
    made = build_tiny(tmp_path_factory.mktemp(request.param), name)
    return windowed(made) if request.param == "windows" else str(made)


def inputs_of(folder, loaded, lengths, sizes):
    """Packed rows of random ids with an image each, of so many columns and rows of visual tokens."""
    maker = Maker(folder)
    rows, pictures = [], {}
    for number, (length, size) in enumerate(zip(lengths, sizes, strict=True)):
        seen = maker.image(*size)
        pictures[seen.ref.digest] = seen.png
        ids = np.array([5] + [maker.info.image_token_id] * seen.ref.n_tokens + [6] * length)
        mask = np.arange(len(ids)) > seen.ref.n_tokens
        rows.append(Row(str(number), ids, mask.astype(np.int8), (seen.ref.digest,), (seen.ref.grid,)))
    collator = Collator(loaded.image_token_id, loaded.image_stats, "packed")
    return collator.collate(rows, PixelCache(pictures)), rows


def measured(policy, inputs, *, backward=True):
    """Operations of the two passes, and of the vision tower's forward pass alone, by torch's counter."""
    # As products of matrices: the counter knows no other attention of a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = policy(inputs)[0]
        if backward:
            outputs.sum().backward()
    whole = counter.get_total_flops()
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as counter:
        vision_tower(policy.model)(inputs.patches, grid_thw=inputs.grids)
    return whole, counter.get_total_flops()


def expected(rates, inputs, rows):
    lengths = [len(row.ids) for row in rows]
    return operations(rates, lengths, inputs.n_targets, [row.grids[0] for row in rows])


CASES = {
    "whole": {},
    "frozen vision": {"freeze_vision": True},
    "adapters": {"lora": Lora(rank=4)},
    "adapters of the last product": {"lora": Lora(rank=4, targets=("down_proj",))},
    "adapters everywhere": {"lora": Lora(rank=4, exclude=None)},
}


@pytest.mark.parametrize(
    ("case", "checkpointing"), [("whole", False), ("adapters", False), *((c, True) for c in CASES)]
)
def test_a_step_of_training_is_what_the_counter_counts(folder, case, checkpointing):
    model = Model(path=folder, gradient_checkpointing=checkpointing, **CASES[case])
    loaded = load(model)
    policy = PolicyModule(loaded, 1.0).train()
    inputs, rows = inputs_of(folder, loaded, [9, 30, 4], [(2, 2), (3, 5), (1, 2)])
    rates = network_rates(loaded.model, checkpointing=checkpointing)
    assert rates_of(model) == rates
    work = expected(rates, inputs, rows)
    whole, vision = measured(policy, inputs)
    assert work.both.done == pytest.approx(whole, rel=TOLERANCE)
    assert work.vision.forward == pytest.approx(vision, rel=TOLERANCE)
    assert (work.both.recomputed > 0) == checkpointing
    assert (work.vision.backward > 0) == (case in ("whole", "adapters everywhere"))


@settings(max_examples=6, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=4, max_size=4),
)
def test_of_any_lengths_and_images(folder, lengths, sizes):
    loaded = _loaded(folder)
    inputs, rows = inputs_of(folder, loaded, lengths, sizes[: len(lengths)])
    work = expected(network_rates(loaded.model, checkpointing=False), inputs, rows)
    policy = PolicyModule(loaded, 1.0)
    whole, vision = measured(policy, inputs)
    assert work.both.done == pytest.approx(whole, rel=TOLERANCE)
    assert work.vision.forward == pytest.approx(vision, rel=TOLERANCE)
    with torch.no_grad():
        read, _ = measured(policy, inputs, backward=False)
    assert work.read.both.done == pytest.approx(read, rel=TOLERANCE)


_KEPT = {}


def _loaded(folder):
    if folder not in _KEPT:
        _KEPT[folder] = load(Model(path=folder))
    return _KEPT[folder]


def test_the_head_is_computed_twice_where_it_goes_in_chunks(folder, monkeypatch):
    loaded = _loaded(folder)
    policy = PolicyModule(loaded, 1.0).train()
    inputs, rows = inputs_of(folder, loaded, [40], [(2, 2)])
    rates = network_rates(loaded.model, checkpointing=False)
    monkeypatch.setattr(forward, "CHUNK_LOGITS", 7 * loaded.vocab_size)
    monkeypatch.setattr(counted, "CHUNK_LOGITS", 7 * loaded.vocab_size)
    work = expected(rates, inputs, rows)
    assert work.text.recomputed == 2 * 128 * loaded.vocab_size * 40
    assert work.both.done == pytest.approx(measured(policy, inputs)[0], rel=TOLERANCE)


def test_by_hand():
    rates = Rates(
        token=Passes(10, 20, 9),
        pair=Passes(2, 4, 2),
        target=Passes(100, 200, 100),
        patch=Passes(7),
        patch_pair=Passes(3),
        window_pair=Passes(5),
        visual_token=Passes(11),
        vocabulary=1000,
        window=2,
        merge=2,
    )
    # 8 tokens; 9 + 25 pairs; 4 targets, whose 4000 logits are one chunk.
    # An image of 4 x 6 patches: 24, 576 pairs; windows of 4 patches cut 4 into 4 and 6 into 4 + 2: 16 x 20 pairs.
    assert operations(rates, [3, 5], 4, [(1, 4, 6)]) == Work(
        text=Passes(80 + 68 + 400, 160 + 136 + 800, 72 + 68),
        vision=Passes(7 * 24 + 3 * 576 + 5 * 320 + 11 * 6, 0, 0),
    )
    many = operations(rates, [3], forward.CHUNK_LOGITS // 1000 + 1, [])
    assert many.text.recomputed == 27 + 18 + 100 * (forward.CHUNK_LOGITS // 1000 + 1)
    assert many.both.needed == many.both.forward + many.both.backward


@pytest.mark.parametrize(("size", "layers", "head"), [(THREE, 36, 151936 * 2048), (SEVEN, 28, 152064 * 3584)])
def test_of_the_published_sizes_a_token_takes_two_operations_a_weight(size, layers, head, tmp_path):
    folder = str(write_sizes(build_tiny(tmp_path), size))
    rates = rates_of(Model(path=folder))
    weights = {THREE: 2_774_532_096, SEVEN: 6_525_288_448}[size]  # in the linear layers of the language model's blocks
    assert rates.token == Passes(2 * weights, 4 * weights, 0)
    assert rates.pair.forward == 4 * layers * {THREE: 2048, SEVEN: 3584}[size]
    assert rates.target.forward == 2 * head
    adapters = rates_of(Model(path=folder, lora=Lora(rank=16), gradient_checkpointing=True))
    # A gradient of every input, none of the weights: as much again as the forward pass, and a little for the adapters.
    assert 1.0 < adapters.token.backward / rates.token.forward < 1.03
    assert 0.9 < adapters.token.recomputed / adapters.token.forward < 1
