"""The export as a Hugging Face folder, and its copy in half the size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from policy.conversation.model_info import read_info
from policy.network.load import load
from policy.network.vision import read_image_stats
from policy.state.export import halve
from policy.tiny.model import build_tiny
from schemas.config import Lora, Model
from tests.policy.batches import ARCHITECTURES, learner_of, make_batch


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_export_is_a_checkpoint_like_the_first(architecture, tmp_path):
    start = str(build_tiny(tmp_path / "start", architecture))
    table, images = make_batch(start, groups=1)
    learner = learner_of(start)
    learner.update(table, [images], 0.0)
    learner.export(str(tmp_path / "export"))
    again = learner_of(str(tmp_path / "export"))
    for (name, a), b in zip(learner.policy.named_parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(a, b), name
    for a, b in zip(learner.logprobs(table, [images]), again.logprobs(table, [images]), strict=True):
        assert np.array_equal(a, b)
    assert read_info(str(tmp_path / "export")).family.name == architecture
    assert read_image_stats(tmp_path / "export") == read_image_stats(start)
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "export", start))
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.chat_template == theirs.chat_template
    names = [{path.name for path in (tmp_path / folder).iterdir()} for folder in ("start", "export")]
    assert names[0] == names[1]
    generation = [json.loads((tmp_path / f / "generation_config.json").read_text()) for f in ("start", "export")]
    assert generation[0]["eos_token_id"] == generation[1]["eos_token_id"]


def test_an_export_asks_as_the_run_did(tmp_path):
    """With the chat template that the run used, where that is not the checkpoint's."""
    start = build_tiny(tmp_path / "start")
    template = (start / "chat_template.jinja").read_text().replace("You are a helpful assistant.", "Point.")
    (tmp_path / "own.jinja").write_text(template)
    (start / "chat_template.json").write_text(json.dumps({"chat_template": "the checkpoint's, in an older form"}))
    learner = learner_of(str(start), chat_template=str(tmp_path / "own.jinja"))
    (tmp_path / "own.jinja").write_text("changed since the run began")
    learner.export(str(tmp_path / "export"))
    said = [{"role": "user", "content": "What?"}]
    for reader in (AutoTokenizer, AutoProcessor):
        asked = reader.from_pretrained(tmp_path / "export").apply_chat_template(said, tokenize=False)
        assert asked.startswith("<|im_start|>system\nPoint.<|im_end|>\n")
    names = {path.name for path in (tmp_path / "export").iterdir()}
    assert names == {path.name for path in start.iterdir()} - {"chat_template.json"}


def test_an_export_of_adapters_is_merged(tiny, data, tmp_path):
    learner = learner_of(tiny, lora=Lora(rank=2, alpha=16))
    for _ in range(3):
        learner.update(*data, 0.0)
    learner.export(str(tmp_path / "export"))
    exported = learner_of(str(tmp_path / "export"))
    before = learner_of(tiny)
    ours, theirs, start = (policy.logprobs(*data) for policy in (learner, exported, before))
    for a, b, c in zip(ours, theirs, start, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.abs(a - c).max() > 1e-3


def test_an_export_in_bfloat16(tiny, tmp_path):
    learner_of(tiny, dtype="bfloat16").export(str(tmp_path / "export"))
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "export", dtype="auto").dtype == torch.bfloat16


def test_a_halved_checkpoint_is_half_the_size_and_loads_as_its_rounded_weights(tmp_path: Path) -> None:
    source = build_tiny(tmp_path / "whole", seed=3)
    halve(source, tmp_path / "half")
    whole, half = load_file(source / "model.safetensors"), load_file(tmp_path / "half" / "model.safetensors")
    assert whole.keys() == half.keys()
    assert all(torch.equal(half[name], whole[name].half()) for name in whole)
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert size < 0.55 * (source / "model.safetensors").stat().st_size
    assert load(Model(path=str(tmp_path / "half"))).vocab_size == load(Model(path=str(source))).vocab_size


def test_halving_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        halve(tmp_path, tmp_path / "half")
