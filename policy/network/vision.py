"""Images on their way into the network: patches, and faster exact forms of two pieces of the vision tower.

    uint8 [H, W, 3] --patchify--> [n, 3 x P x P], one frame --repeat_frames--> [n, 3 x T x P x P], the stock layout

A still image is T equal frames, so the frame is kept once and repeated where the stock network wants it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageStats:
    """How the checkpoint's image processor normalises and cuts images. Mean and std are per channel, of values 0..1.

    >>> ImageStats((0.5,) * 3, (0.5,) * 3, patch=14, merge=2, temporal_patch=2).patch_values
    588
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch: int
    merge: int
    temporal_patch: int

    @property
    def patch_values(self) -> int:
        """Values of one patch of one frame."""
        return 3 * self.patch**2


def read_image_stats(folder: str | Path) -> ImageStats:
    """Reads the image processor's settings from a checkpoint folder.

    Raises ValueError naming the file and the key where one is missing or asks for what `patchify` does not do.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = Path(folder) / name
        if file.is_file():
            settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            settings = settings.get("image_processor", settings)
            break
    else:
        raise ValueError(f"{folder}: neither preprocessor_config.json nor processor_config.json; copy the processor")
    needed = ("image_mean", "image_std", "patch_size", "merge_size", "temporal_patch_size")
    missing = [key for key in needed if key not in settings]
    if missing:
        raise ValueError(f"{file}: {', '.join(missing)} missing; copy the processor files of the original checkpoint")
    if not math.isclose(settings.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise ValueError(f"{file}: rescale_factor={settings['rescale_factor']}; only 1/255 is supported")
    mean, std, patch, merge, temporal = (settings[key] for key in needed)
    return ImageStats(tuple(mean), tuple(std), patch, merge, temporal)


def patchify(image: Pixels, stats: ImageStats) -> npt.NDArray[np.float32]:
    """Patches [n, 3 x P x P] of an RGB image [H, W, 3], in the order of the image processors of the three families.

    That order is by blocks of merge x merge patches. Raises ValueError when a side is off the grid: resizing is not
    this function's business.
    """
    height, width, _ = image.shape
    block = stats.patch * stats.merge
    if height % block or width % block:
        raise ValueError(f"an image of {width}x{height} is off the grid of {block}; resize it before it is recorded")
    m, p = stats.merge, stats.patch
    tiles = image.reshape(height // block, m, p, width // block, m, p, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    mean, std = (np.asarray(x, dtype=np.float32)[:, None] for x in (stats.mean, stats.std))
    values = tiles.reshape(-1, 3, p * p) * (1 / (255 * std)) - mean / std
    return values.reshape(-1, stats.patch_values).astype(np.float32, copy=False)


def repeat_frames(patches: Tensor, frames: int) -> Tensor:
    """[n, 3 x P x P] -> [n, 3 x frames x P x P]: the same still in every frame."""
    n, values = patches.shape
    return patches.view(n, 3, 1, values // 3).expand(n, 3, frames, values // 3).reshape(n, -1)


def install_fast_vision(visual: nn.Module) -> None:
    """Replaces the patch embedding and the attention of one vision tower by exact equivalents that are faster on a CPU.

    The 3-D convolution over equal frames becomes a product with the sum of its slices, so the tower then takes patches
    of one frame. Attention runs over images of equal size at once instead of one by one. Only this instance changes.
    """
    embed: Any = visual.patch_embed
    embed.forward = MethodType(_embed_single_frame, embed)
    for block in visual.blocks:  # type: ignore[union-attr]
        attention: Any = block.attn
        attention.forward = MethodType(_attend_batched, attention)


def _embed_single_frame(self: Any, patches: Tensor) -> Tensor:
    weight = self.proj.weight.sum(2).flatten(1)
    return F.linear(patches.to(weight.dtype), weight, self.proj.bias)


def _attend_batched(
    self: Any, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any
) -> Tensor:
    n = hidden_states.shape[0]
    q, k, v = self.qkv(hidden_states).reshape(n, 3, self.num_heads, -1).unbind(1)
    cos, sin = (x.unsqueeze(-2) for x in position_embeddings)
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).tolist()
    mixed = _by_length(lengths, lambda *qkv: _attend(*qkv), q, k, v)
    return self.proj(mixed.reshape(n, -1))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.float().chunk(2, dim=-1)
    return (x * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Full attention within each of B segments of equal length: [B, L, heads, size] each."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _by_length(lengths: list[int], function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Applies `function` to [B, length, ...] of all segments of one length at a time; [n, ...] in and out."""
    if len(set(lengths)) == 1:
        return function(*(x.unflatten(0, (len(lengths), lengths[0])) for x in tensors)).flatten(0, 1)
    starts = np.cumsum([0, *lengths[:-1]])
    order: list[Tensor] = []
    parts: list[Tensor] = []
    for length in sorted(set(lengths)):
        first = torch.from_numpy(starts[np.equal(lengths, length)]).to(tensors[0].device)
        index = (first[:, None] + torch.arange(length, device=first.device)).flatten()
        order.append(index)
        parts.append(function(*(x[index].unflatten(0, (-1, length)) for x in tensors)).flatten(0, 1))
    return torch.cat(parts)[torch.argsort(torch.cat(order))]
