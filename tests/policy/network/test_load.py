"""Loading a folder as a policy: what is trained, what is refused."""

import importlib.util
import json
import shutil

import pytest
import torch

from policy.network.load import load, vision_tower
from policy.tiny.model import build_tiny
from schemas.config import Lora, Model
from schemas.config.file import SettingError
from tests.policy.batches import ARCHITECTURES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_family_loads(architecture, tmp_path):
    loaded = load(Model(path=str(build_tiny(tmp_path, architecture))))
    assert loaded.family.name == architecture
    assert loaded.image_stats.patch == loaded.family.patch
    assert loaded.vocab_size == loaded.model.get_output_embeddings().weight.shape[0]
    assert loaded.image_token_id in loaded.forbidden_ids
    assert all(p.requires_grad and p.dtype == torch.float32 for p in loaded.model.parameters())


def test_what_is_no_checkpoint_is_refused(folder, tmp_path):
    with pytest.raises(SettingError, match=r"no config\.json there"):
        load(Model(path=str(tmp_path / "nowhere")))
    copy = tmp_path / "llama"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text()) | {"model_type": "llama"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="model_type='llama' is not supported; use one of qwen2_vl"):
        load(Model(path=str(copy)))


def test_flash_attention_needs_bfloat16_and_its_package(folder):
    assert importlib.util.find_spec("flash_attn") is None  # it needs a GPU
    with pytest.raises(ValueError, match="does not compute in dtype='float32'"):
        load(Model(path=folder, attention="flash_attention_2"))
    with pytest.raises(ValueError, match="the package flash-attn is not installed here; install it in"):
        load(Model(path=folder, attention="flash_attention_2", dtype="bfloat16"))


def test_master_weights_stay_float32(folder):
    assert load(Model(path=folder, dtype="bfloat16")).model.dtype == torch.float32
    frozen = load(Model(path=folder, dtype="bfloat16"), trainable=False).model
    assert frozen.dtype == torch.bfloat16
    assert not any(p.requires_grad for p in frozen.parameters())


def test_frozen_vision(folder):
    model = load(Model(path=folder, freeze_vision=True)).model
    vision = set(vision_tower(model).parameters())
    assert all(p.requires_grad == (p not in vision) for p in model.parameters())


def test_only_adapters_are_trained(folder):
    model = load(Model(path=folder, lora=Lora(rank=4, alpha=8))).model
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".lora_" in name and "visual" not in name for name in trained)
    narrow = load(Model(path=folder, lora=Lora(rank=4, targets=("q_proj",), exclude=None))).model
    assert {name.split(".lora_")[0].split(".")[-1] for name, p in narrow.named_parameters() if p.requires_grad} == {
        "q_proj"
    }


def test_adapters_depend_on_the_seed_alone(folder):
    config = Model(path=folder, lora=Lora(rank=4))

    def adapters(seed):
        torch.manual_seed(torch.seed() % 1000)
        state = load(config, seed=seed).model.state_dict()
        return torch.cat([v.flatten() for k, v in state.items() if "lora_A" in k])

    assert torch.equal(adapters(1), adapters(1))
    assert not torch.equal(adapters(1), adapters(2))
