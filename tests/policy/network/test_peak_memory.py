"""What a pass takes at its peak, on tensors without data: it grows with the tokens and not with their square.

The widths are those of published models, with few blocks. The kernel is the one of a GPU: by its shapes, as torch has
them for tensors without data. Sequences are told apart by starts alone, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from policy.network import attention
from policy.network.footprint import Sizes, Tower, _stack, sizes_of
from policy.network.load import base_model, load, vision_tower
from policy.tiny.model import build_tiny
from schemas.config import Model
from tests.policy.batches import ARCHITECTURES
from tests.policy.live_memory import LiveMemory
from tests.policy.real_sizes import THREE, write_qwen2_2b, write_qwen3_4b, write_sizes

BLOCKS, TOKENS = 3, 16384
WIDTH = 2  # bytes of bfloat16
# The estimate over what was measured. It has to be above, as a plan is refused by it.
LEAST, MOST = 1.0, 1.34


def widths(folder: Path, architecture: str) -> str:
    """A folder with the widths of Qwen2.5-VL-3B, Qwen2-VL-2B or Qwen3-VL-4B."""
    build_tiny(folder, architecture)
    if architecture == "qwen2_5_vl":
        return str(write_sizes(folder, THREE, layers=BLOCKS, vision_blocks=BLOCKS))
    return str((write_qwen2_2b if architecture == "qwen2_vl" else write_qwen3_4b)(folder, layers=BLOCKS, blocks=BLOCKS))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    return widths(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    monkeypatch.setattr(attention, "attend", attention.by_kernel)


def network(folder: str, *, checkpointing: bool = False) -> Any:
    """A network on the meta device in bfloat16, every weight with a gradient that is there already."""
    model = load(Model(path=folder, dtype="bfloat16"), sharded=True, trainable=False).model.to("meta")
    model.requires_grad_(True).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.disable_input_require_grads()
    for weight in model.parameters():
        weight.grad = torch.empty_like(weight)
    return model


def peak(model: Any, run: Callable[[], Tensor], *given: Tensor) -> LiveMemory:
    """Memory of `run` and, where it makes a graph, of its backward pass."""
    there = [*model.parameters(), *(p.grad for p in model.parameters()), *model.buffers(), *given]
    with LiveMemory(there) as live:
        out = run()
        if out.requires_grad:
            out.backward(torch.empty_like(out))
        del out
    return live


def text_run(model: Any, tokens: int, blocks: int = BLOCKS) -> tuple[Callable[[], Tensor], Tensor]:
    """The language model with so many of its blocks on packed sequences, and its input."""
    language = base_model(model).model.language_model
    language.layers = torch.nn.ModuleList(list(language.layers)[:blocks])
    hidden = torch.empty(1, tokens, language.config.hidden_size, dtype=torch.bfloat16, device="meta")
    positions = torch.empty(3, 1, tokens, dtype=torch.int64, device="meta")
    starts = torch.empty(9, dtype=torch.int32, device="meta")

    def run() -> Tensor:
        return language(
            inputs_embeds=hidden,
            position_ids=positions,
            use_cache=False,
            cu_seq_lens_q=starts,
            max_length_q=tokens,
        ).last_hidden_state

    return run, hidden


def vision_run(model: Any, side: int, blocks: int = BLOCKS) -> tuple[Callable[[], Tensor], Tensor]:
    """The vision tower with so many of its blocks on one image of side x side visual tokens, and its patches.

    What it works out of the grid is worked out before, as tensors without data have no grid.
    """
    tower = vision_tower(model)
    tower.blocks = torch.nn.ModuleList(list(tower.blocks)[:blocks])
    grid = torch.tensor([[1, 2 * side, 2 * side]])
    known: dict[str, Any] = {"max_seqlen": 4 * side**2, "max_window_seqlen": 64}
    tensors = {"position_ids": get_vision_position_ids(grid, 2), "cu_seqlens": get_vision_cu_seqlens(grid)}
    if hasattr(tower, "window_size"):
        windows = get_vision_window_index(grid, 2, tower.window_size, tower.patch_embed.patch_size)
        tensors |= dict(zip(("window_index", "cu_window_seqlens"), windows, strict=True))
    if hasattr(tower, "num_grid_per_side"):
        taps = get_vision_interpolation_indices_and_weights(
            grid, tower.num_grid_per_side, mode="bilinear", align_corners=True, spatial_merge_size=2
        )
        tensors |= dict(zip(("interp_indices", "interp_weights"), taps, strict=True))
    known |= {name: tensor.to("meta") for name, tensor in tensors.items()}
    patches = torch.empty(4 * side**2, 3 * tower.patch_embed.patch_size**2, device="meta")
    return lambda: tower(patches, grid_thw=grid, **known).pooler_output, patches


def assert_linear(first: LiveMemory, second: LiveMemory, third: LiveMemory) -> None:
    """Peaks at n, 2n and 4n tokens lie on a line."""
    assert third.peak - second.peak == pytest.approx(2 * (second.peak - first.peak), rel=1e-3)
    assert third.peak < 4.0 * first.peak


@pytest.mark.parametrize("blocks", [1, BLOCKS])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_of_the_language_model_it_grows_with_the_tokens(folder, blocks, checkpointing):
    found = []
    for tokens in (TOKENS // 4, TOKENS // 2, TOKENS):
        model = network(folder, checkpointing=checkpointing)
        run, hidden = text_run(model, tokens, blocks)
        found.append(peak(model, run, hidden))
    assert (TOKENS, TOKENS) not in found[-1].shapes
    assert_linear(*found)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_of_the_vision_tower_it_grows_with_the_patches(folder, checkpointing):
    found = []
    for side in (32, 64):
        model = network(folder, checkpointing=checkpointing)
        run, patches = vision_run(model, side)
        found.append(peak(model, run, patches))
    assert (TOKENS, TOKENS) not in found[-1].shapes
    assert found[1].peak < 4.01 * found[0].peak


def test_attention_with_all_products_at_once_is_noticed(folder, monkeypatch):
    def products(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        group = query.shape[1] // key.shape[1]
        k, v = (x.repeat_interleave(group, 1).transpose(0, 1) for x in (key, value))
        return ((query.transpose(0, 1) @ k.mT).softmax(-1) @ v).transpose(0, 1)

    monkeypatch.setattr(attention, "attend", products)
    found = []
    for tokens in (TOKENS // 4, TOKENS // 2, TOKENS):
        model = network(folder)
        run, hidden = text_run(model, tokens, 1)
        found.append(peak(model, run, hidden))
    assert (TOKENS, TOKENS) in found[-1].shapes
    with pytest.raises(AssertionError):
        assert_linear(*found)


def towers(sizes: Sizes) -> dict[str, tuple[Tower, Callable[[Any], tuple[Callable[[], Tensor], Tensor]]]]:
    return {
        "text": (sizes.text, lambda model: text_run(model, TOKENS)),
        "vision": (sizes.vision, lambda model: vision_run(model, 64)),
    }


@pytest.mark.parametrize("part", ["text", "vision"])
def test_what_a_block_keeps_is_what_is_counted(folder, part):
    """To the thousandth: in a pass with all blocks against one with a block less."""
    tower = getattr(sizes_of(Model(path=folder)), part)
    peaks = []
    for blocks in (BLOCKS - 1, BLOCKS):
        model = network(folder)
        run, given = text_run(model, TOKENS, blocks) if part == "text" else vision_run(model, 64, blocks)
        peaks.append(peak(model, run, given).peak)
    assert peaks[1] - peaks[0] == pytest.approx(WIDTH * TOKENS * tower.kept, rel=1e-3)


@pytest.mark.parametrize("part", ["text", "vision"])
@pytest.mark.parametrize("way", ["kept", "checkpointed", "read"])
def test_the_estimate_is_above_it_and_not_by_much(folder, part, way):
    tower, run_of = towers(sizes_of(Model(path=folder)))[part]
    model = network(folder, checkpointing=way == "checkpointed")
    run, given = run_of(model)
    if way == "read":
        model.eval()
        with torch.no_grad():
            live = peak(model, run, given)
    else:
        live = peak(model, run, given)
    estimate = WIDTH * _stack(tower, TOKENS, way == "checkpointed", backward=way != "read")
    assert LEAST < estimate / live.peak < MOST, f"{estimate:.3g} of {live.peak:.3g} bytes"
