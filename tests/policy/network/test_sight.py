"""Images reach the log-probabilities, or the learner does not start; looking changes nothing."""

import random

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLModel

from policy.network.forward import PolicyModule
from policy.network.load import load
from policy.network.sight import refuse_blind
from policy.tiny.model import build_tiny
from schemas.config import Model
from schemas.config.file import SettingError
from tests.policy.batches import ARCHITECTURES, learner_of


def blind(self, input_ids=None, position_ids=None, use_cache=None, mm_encoder_outputs=None, **kwargs):
    """It names the images, and does nothing with them."""
    embedded = self.get_input_embeddings()(input_ids)
    return self.language_model(inputs_embeds=embedded, position_ids=position_ids, use_cache=use_cache, **kwargs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_family_sees(architecture, tmp_path):
    folder = str(build_tiny(tmp_path, architecture))
    loaded = load(Model(path=folder))
    refuse_blind(PolicyModule(loaded, 1.0), loaded, folder, "cpu")


def test_a_learner_that_sees_nothing_does_not_start(tiny, monkeypatch):
    monkeypatch.setattr(Qwen2_5_VLModel, "forward", blind)
    with pytest.raises(SettingError, match="gives the same log-probabilities whatever the image is; install"):
        learner_of(tiny)


def test_a_merger_of_zeros_shows_nothing(tiny):
    """Not the version's fault, and found all the same."""
    loaded = load(Model(path=tiny))
    torch.nn.init.zeros_(loaded.model.model.visual.merger.mlp[2].weight)
    with pytest.raises(SettingError, match="or use a checkpoint whose vision works"):
        refuse_blind(PolicyModule(loaded, 1.0), loaded, tiny, "cpu")


def test_looking_changes_nothing(tiny):
    loaded = load(Model(path=tiny))
    policy = PolicyModule(loaded, 1.0).train()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    refuse_blind(policy, loaded, tiny, "cpu")
    assert policy.training
    assert random.getstate() == generators[0]
    assert np.random.get_state()[1].tolist() == generators[1]
    assert torch.equal(torch.get_rng_state(), generators[2])
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert all(p.grad is None for p in policy.parameters())
