"""Patches against the families' image processors, and a vision tower that takes single frames against the stock one."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, Qwen2_5_VLConfig

from policy.network.attention import use_varlen
from policy.network.vision import ImageStats, patchify, read_image_stats, take_single_frames
from policy.tiny.model import build_tiny
from tests.policy.batches import ARCHITECTURES

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    return build_tiny(tmp_path_factory.mktemp(request.param), request.param)


def repeat_frames(patches, frames):
    """[n, 3 x P x P] -> [n, 3 x frames x P x P]: the same still in every frame, as the stock network wants it."""
    n, values = patches.shape
    return patches.view(n, 3, 1, values // 3).expand(n, 3, frames, values // 3).reshape(n, -1)


def noise(columns: int, rows: int, grid: int):
    return RANDOM.integers(0, 256, (rows * grid, columns * grid, 3), dtype=np.uint8)


def test_patches_are_the_image_processors(folder):
    stats = read_image_stats(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    images = [noise(*size, stats.patch * stats.merge) for size in ((2, 2), (2, 5), (4, 3))]
    expected = processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")
    patches = torch.from_numpy(np.concatenate([patchify(image, stats) for image in images]))
    assert patches.dtype == torch.float32
    torch.testing.assert_close(
        repeat_frames(patches, stats.temporal_patch), expected["pixel_values"], atol=1e-6, rtol=0
    )
    assert expected["image_grid_thw"].tolist() == [[1, 4, 4], [1, 10, 4], [1, 6, 8]]


def test_the_settings_are_those_that_transformers_takes(tmp_path):
    folder = build_tiny(tmp_path)
    legacy = json.loads((folder / "processor_config.json").read_text())["image_processor"] | {"image_mean": [0.1] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(legacy))
    assert tuple(AutoImageProcessor.from_pretrained(folder).image_mean) == read_image_stats(folder).mean
    assert read_image_stats(folder).mean[0] != 0.1
    (folder / "processor_config.json").write_text('{"processor_class": "Qwen2_5_VLProcessor"}')
    assert tuple(AutoImageProcessor.from_pretrained(folder).image_mean) == read_image_stats(folder).mean == (0.1,) * 3


def towers(model):
    """The same weights twice: stock, and of single frames without a loop over windows."""
    fast = type(model)(deepcopy(model.config))
    fast.load_state_dict(model.state_dict())
    take_single_frames(fast.model.visual)
    use_varlen(fast)
    return model.model.visual, fast.model.visual


@pytest.mark.parametrize("sizes", [[(2, 2)] * 3, [(2, 2), (3, 5), (2, 2), (5, 3)]], ids=["equal", "mixed"])
def test_the_fast_tower_is_the_stock_tower(folder, sizes):
    stats = read_image_stats(folder)
    stock, fast = towers(AutoModelForImageTextToText.from_pretrained(folder))
    images = [noise(*size, stats.patch * stats.merge) for size in sizes]
    patches = torch.from_numpy(np.concatenate([patchify(image, stats) for image in images]))
    grids = torch.tensor([[1, rows * stats.merge, columns * stats.merge] for columns, rows in sizes])
    outputs = []
    for tower, frames in ((stock, stats.temporal_patch), (fast, 1)):
        features = tower(repeat_frames(patches, frames), grid_thw=grids, return_dict=True).pooler_output
        features.square().sum().backward()
        outputs.append((features.detach(), {name: p.grad for name, p in tower.named_parameters()}))
    (expected, expected_grads), (features, grads) = outputs
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    for name, expected_grad in expected_grads.items():
        if expected_grad is not None:  # Qwen3-VL's deepstack mergers are not in this output
            scale = expected_grad.abs().max().item() + 1e-6
            torch.testing.assert_close(grads[name] / scale, expected_grad / scale, atol=2e-5, rtol=0, msg=name)


def test_window_attention_with_ragged_windows():
    """Qwen2.5-VL's windows cut an image off the window grid into segments of different lengths."""
    torch.manual_seed(0)
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2_5_VLConfig(
        text_config=text | {"num_key_value_heads": 1, "vocab_size": 16},
        vision_config=vision | {"window_size": 56, "fullatt_block_indexes": [1]},
    )
    stock, fast = towers(AutoModelForImageTextToText.from_config(config))
    stats = ImageStats((0.5,) * 3, (0.25,) * 3, patch=14, merge=2, temporal_patch=2)
    patches = torch.from_numpy(np.concatenate([patchify(noise(*size, 28), stats) for size in ((3, 5), (4, 4))]))
    grids = torch.tensor([[1, 10, 6], [1, 8, 8]])
    with torch.no_grad():
        expected = stock(repeat_frames(patches, 2), grid_thw=grids).pooler_output
        torch.testing.assert_close(fast(patches, grid_thw=grids).pooler_output, expected, atol=1e-5, rtol=1e-5)


def test_other_towers_stay_stock(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    other = AutoModelForImageTextToText.from_pretrained(folder)
    take_single_frames(model.model.visual)
    assert "forward" not in vars(other.model.visual.patch_embed)
    assert "forward" in vars(model.model.visual.patch_embed)


def test_frames_that_differ_are_taken_as_the_stock_network_takes_them(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    stats = read_image_stats(folder)
    embed = model.model.visual.patch_embed
    patches = torch.randn(6, stats.patch_values * stats.temporal_patch)
    expected = embed(patches)
    take_single_frames(model.model.visual)
    torch.testing.assert_close(embed(patches), expected, atol=1e-5, rtol=1e-5)


def test_an_image_off_the_grid_is_refused():
    stats = ImageStats((0.5,) * 3, (0.5,) * 3, patch=14, merge=2, temporal_patch=2)
    with pytest.raises(ValueError, match="30x28 is off the grid of 28"):
        patchify(np.zeros((28, 30, 3), dtype=np.uint8), stats)


def test_settings_of_the_image_processor(tmp_path):
    with pytest.raises(ValueError, match="no settings of an image processor there, in preprocessor_config"):
        read_image_stats(tmp_path)
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "patch_size": 14, "merge_size": 2}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    with pytest.raises(ValueError, match=r"processor_config\.json lacks temporal_patch_size"):
        read_image_stats(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    own = tmp_path / "preprocessor_config.json"  # as the published checkpoints have it
    own.write_text(json.dumps(settings | {"temporal_patch_size": 2}))
    assert read_image_stats(tmp_path) == ImageStats((0.1, 0.2, 0.3), (1, 1, 1), 14, 2, 2)
    own.write_text(json.dumps(settings | {"temporal_patch_size": 2, "rescale_factor": 1 / 127.5}))
    with pytest.raises(ValueError, match="rescale_factor"):
        read_image_stats(tmp_path)
