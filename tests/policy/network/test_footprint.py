"""Memory by hand on round numbers, and the counts of real models."""

import pytest
from transformers import AutoModelForImageTextToText

from policy.network.footprint import (
    GIB,
    MIB,
    Sizes,
    Tower,
    described,
    engine_memory,
    learner_memory,
    reference_memory,
    sizes_of,
)
from policy.tiny.model import build_tiny
from schemas.config import Lora, Model, TrainConfig
from tests.policy.batches import ARCHITECTURES
from tests.policy.real_sizes import SEVEN, THREE, write_sizes

# 1000 weights, all trained: blocks of 100, and 300 outside of them.
ROUND = Sizes(
    weights=1000,
    trained=1000,
    stored=4000,
    block=100,
    root=300,
    text=Tower(blocks=5, hidden=10, inner=20, kept=140, beside=30, read=90),
    vision=Tower(blocks=2, hidden=4, inner=8, kept=56, beside=7, read=50),
    vision_trained=True,
    kv=4,
    vocabulary=50,
    merge=4,
)


def config(**sections):
    base = {
        "model": {"path": "m", "dtype": "bfloat16"},
        "data": {"train_files": "a"},
        "rollout": {"engine": {"max_model_len": 64, "max_num_seqs": 8, "dtype": "bfloat16"}},
        "learner": {"micro_batch_tokens": 100},
        "resources": {"learner": {"count": 4}},
        "trainer": {"max_steps": 1},
    }
    for name, values in sections.items():
        base[name] = base.get(name, {}) | values
    return TrainConfig.model_validate(base)


def test_a_learner_rank_by_hand() -> None:
    whole = 2 * (100 * (5 * 140 + 30) + 400 * (2 * 56 + 7))
    assert learner_memory(ROUND, config()) == {
        "weights": 1000.0,
        "gradients": 1000.0,
        "optimiser": 2000.0,
        "gathered": 2 * (2 * 100 + 300) + 6 * (100 + 300),
        "activations": whole,
        "logits": 4 * 3 * 100 * 50,
    }
    checkpointed = learner_memory(ROUND, config(model={"gradient_checkpointing": True}))
    assert checkpointed["activations"] == 2 * (100 * (140 + 5 * 10 + 30) + 400 * (56 + 2 * 4 + 7))
    copies = learner_memory(ROUND, config(learner={"sharding": {"ranks": 2}, "optimiser": {"state_dtype": "bfloat16"}}))
    assert [copies[part] for part in ("weights", "gradients", "optimiser")] == [2000, 2000, 2000]
    exact = learner_memory(ROUND, config(algorithm={"kl": {"estimator": "full"}}))
    assert exact["reference"] == 2 * 1000 / 4  # the learner then holds it, sharded alike
    on_gpus = {"learner": {"count": 4, "gpus": 1}}
    offloaded = learner_memory(ROUND, config(learner={"sharding": {"cpu_offload": True}}, resources=on_gpus))
    assert offloaded.keys() == {"gathered", "activations", "logits"}


def test_the_reference_and_an_engine_by_hand() -> None:
    assert reference_memory(ROUND, config()) == {
        "weights": 2000.0,
        "activations": 2 * (100 * 90 + 400 * 50),
        "logits": 60000,
    }
    assert engine_memory(ROUND, config())["KV cache"] == 256 * MIB  # without a GPU, as kv_cache_bytes says
    # Keys and values of 5 layers x 4 numbers x 2 bytes = 80 bytes a token; 8 sequences of 64.
    on_gpu = config(resources={"rollout": {"gpus": 1}})
    assert engine_memory(ROUND, on_gpu) == {"weights": 2000.0, "KV cache": 80.0 * 8 * 64}
    assert described({"weights": 3 * GIB, "logits": GIB / 4}) == "weights 3.0 + logits 0.2 = 3.2 GiB"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_counts_are_those_of_the_model(architecture, tmp_path) -> None:
    folder = str(build_tiny(tmp_path, architecture))
    whole = AutoModelForImageTextToText.from_pretrained(folder)
    sizes = sizes_of(Model(path=folder))
    assert sizes.weights == sizes.trained == sum(p.numel() for p in whole.parameters())
    assert (sizes.text.blocks, sizes.vision.blocks, sizes.text.hidden, sizes.vision.hidden) == (3, 4, 128, 64)
    assert sizes.stored == 4 * sizes.weights
    blocks = [*whole.model.language_model.layers, *whole.model.visual.blocks]
    assert sizes.weights - sizes.root == sum(p.numel() for block in blocks for p in block.parameters())
    adapters = sizes_of(Model(path=folder, dtype="bfloat16", lora=Lora(rank=2)))
    assert 0 < adapters.trained < sizes.trained / 10
    assert adapters.stored == 2 * sizes.weights + 4 * adapters.trained
    assert sizes_of(Model(path=folder, freeze_vision=True)).vision_trained is False


@pytest.mark.parametrize(("size", "weights"), [(THREE, 3_754_622_976), (SEVEN, 8_292_166_656)])
def test_the_published_sizes(size, weights, tmp_path) -> None:
    """As the published checkpoints' indices count them, at two bytes each."""
    sizes = sizes_of(Model(path=str(write_sizes(build_tiny(tmp_path), size))))
    assert sizes.weights == weights
    # Of a patch: norms and attention keep 14 widths, the gated feed-forward part 4; statistics of 16 heads and 2 norms.
    kept = 14 * 1280 + 4 * 3420 + 2 * 16 + 8
    assert sizes.vision == Tower(32, 1280, 3420, kept, 9 * 1280 + 2 * 3420, 20 * 1280)
    assert sizes.kv == (256 if size == THREE else 512)
