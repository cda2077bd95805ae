"""The installed transformers takes what is handed to it by name, or the model is refused when it is loaded."""

from pathlib import Path

import pytest
import transformers
from transformers import Qwen2_5_VLModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower

from policy.network.collate import Collator, PixelCache, rows_of
from policy.network.forward import PolicyModule
from policy.network.keywords import SUPPORTED, TO_MODEL, TO_TEXT, TO_TOWER
from policy.network.load import base_model, load
from policy.tiny.model import build_tiny
from schemas.config import Lora, Model
from schemas.config.file import SettingError
from tests.policy.batches import ARCHITECTURES, make_batch

# Names that are not looked up, and why they need not be: keywords.py says it.
LOUD = {"cu_seq_lens_q", "max_length_q", "return_dict"}


def deaf(self, input_ids=None, position_ids=None, use_cache=None, **kwargs):
    """The model's forward of a transformers that does not know `mm_encoder_outputs`: the image is dropped."""
    kwargs.pop("mm_encoder_outputs")
    embedded = self.get_input_embeddings()(input_ids)
    return self.language_model(inputs_embeds=embedded, position_ids=position_ids, use_cache=use_cache, **kwargs)


def test_a_model_that_swallows_the_image_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(Qwen2_5_VLModel, "forward", deaf)
    monkeypatch.setattr(transformers, "__version__", "5.17.0")
    named = rf"Qwen2_5_VLModel\.forward of transformers 5\.17\.0 does not name mm_encoder_outputs.*{SUPPORTED}"
    for model in (Model(path=tiny), Model(path=tiny, lora=Lora(rank=2))):
        with pytest.raises(SettingError, match=named):
            load(model)
    with pytest.raises(SettingError, match=named):
        load(Model(path=tiny), sharded=True)  # as `pointvg check` builds it


def test_a_vision_tower_that_swallows_the_grids_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(Tower, "forward", lambda self, hidden_states, **kwargs: None)
    with pytest.raises(SettingError, match=r"TransformerPretrainedModel\.forward of .* does not name grid_thw"):
        load(Model(path=tiny))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_looked_up_is_what_is_handed_over(architecture, tmp_path):
    """Every family loads, and a forward pass hands over no name that nobody looks up."""
    folder = str(build_tiny(tmp_path, architecture))
    loaded = load(Model(path=folder))
    inner = base_model(loaded.model).model
    given = {}

    def noted(name, plain):
        def forward(*args, **kwargs):
            given.setdefault(name, set()).update(kwargs)
            return plain(*args, **kwargs)

        return forward

    inner.forward = noted("model", inner.forward)
    inner.language_model.forward = noted("text", inner.language_model.forward)
    inner.visual.forward = noted("tower", inner.visual.forward)
    table, images = make_batch(folder, groups=1)
    collator = Collator(loaded.image_token_id, loaded.image_stats)
    PolicyModule(loaded, 1.0)(collator.collate(rows_of(table), PixelCache.from_tables([images])))
    assert given["model"] - LOUD == {*TO_MODEL, *TO_TEXT}
    assert given["text"] >= {*TO_TEXT}
    assert given["tower"] - LOUD == {*TO_TOWER}


def test_the_supported_version_is_the_one_that_is_installed():
    wanted = Path(__file__).parents[3].joinpath("pyproject.toml").read_text()
    assert f'"transformers=={SUPPORTED}"' in wanted
