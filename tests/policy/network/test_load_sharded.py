"""Reading a checkpoint folder weight by weight: whose names, which rows, what is refused."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from policy.network.load import base_model, load
from policy.network.load_sharded import StoredWeights, initial_adapter
from policy.tiny.model import build_tiny
from schemas.config import Model
from tests.policy.batches import ARCHITECTURES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny(tmp_path_factory.mktemp("tiny"))


def skeleton(folder):
    return base_model(load(Model(path=str(folder)), sharded=True).model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_skeleton_has_the_shapes_and_buffers_but_no_weights(architecture, tmp_path):
    folder = build_tiny(tmp_path, architecture)
    empty, whole = skeleton(folder), AutoModelForImageTextToText.from_pretrained(folder)
    assert all(p.is_meta for p in empty.parameters())
    assert {n: p.shape for n, p in empty.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    assert all(torch.equal(b, dict(whole.named_buffers())[n]) for n, b in empty.named_buffers())
    assert empty.lm_head.weight is empty.get_input_embeddings().weight


def test_rows_by_the_names_of_either_layout(folder, tmp_path):
    """The published files call it model.layers..., the network model.language_model.layers...; both are read."""
    network = AutoModelForImageTextToText.from_pretrained(folder)
    copy = tmp_path / "network-names"
    shutil.copytree(folder, copy)
    assert "visual.patch_embed.proj.weight" in load_file(folder / "model.safetensors")
    own = {n: p.detach().clone().contiguous() for n, p in network.named_parameters()}
    save_file(own, copy / "model.safetensors", metadata={"format": "pt"})
    for source in (folder, copy):
        stored = StoredWeights(source, skeleton(source))
        for name, weight in network.named_parameters():
            stored.check(name, weight.shape)
            assert torch.equal(stored.rows(name, 1, 3), weight[1:3])


def test_what_does_not_hold_the_model_is_refused(folder, tmp_path):
    network = skeleton(folder)
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor .* convert the checkpoint"):
        StoredWeights(tmp_path, network)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    stored = StoredWeights(tmp_path, network)
    with pytest.raises(ValueError, match=r"no weight model\.language_model\.norm\.weight; the files are incomplete"):
        stored.check("model.language_model.norm.weight", torch.Size([128]))
    with pytest.raises(ValueError, match=r"layernorm\.weight is \(128,\), config\.json makes it \(64,\)"):
        stored.check("model.language_model.layers.0.input_layernorm.weight", torch.Size([64]))


def test_an_adapter_starts_as_peft_would_draw_it():
    """Uniform within 1 / sqrt(fan-in); the second factor zero; another for every weight and seed."""
    a = initial_adapter("q_proj.lora_A.default.weight", torch.Size([64, 100]), 1)
    assert 0.099 < a.abs().max() < 0.1
    assert abs(a.std() - 0.1 / 3**0.5) < 1e-3
    assert not torch.equal(a, initial_adapter("k_proj.lora_A.default.weight", torch.Size([64, 100]), 1))
    assert not torch.equal(a, initial_adapter("q_proj.lora_A.default.weight", torch.Size([64, 100]), 2))
    assert not initial_adapter("q_proj.lora_B.default.weight", torch.Size([100, 64]), 1).any()
