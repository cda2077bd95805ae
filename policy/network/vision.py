"""Images on their way into the network: patches of one frame, and a vision tower that takes them.

    uint8 [H, W, 3] --patchify--> [n, 3 x P x P], one frame --vision tower--> features

A still image is T equal frames to the stock network; here the frame is kept once.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.config.file import SettingError

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

    Raises SettingError naming the file and the key where one is missing or asks for what `patchify` does not do.
    """
    file, settings = _processor_settings(Path(folder))
    needed = ("image_mean", "image_std", "patch_size", "merge_size", "temporal_patch_size")
    missing = [key for key in needed if key not in settings]
    if missing:
        raise SettingError(
            "model.path",
            str(folder),
            f"{file.name} lacks {', '.join(missing)}",
            "copy the processor files of the original checkpoint",
        )
    if not math.isclose(settings.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise SettingError(
            "model.path",
            str(folder),
            f"{file.name} has rescale_factor={settings['rescale_factor']}, and only 1/255 is supported",
            "use a model whose processor divides by 255",
        )
    mean, std, patch, merge, temporal = (settings[key] for key in needed)
    return ImageStats(tuple(mean), tuple(std), patch, merge, temporal)


def _processor_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file and the settings that transformers takes: those of the whole processor, where it has an image part."""
    whole, part = folder / "processor_config.json", folder / "preprocessor_config.json"
    if whole.is_file():
        settings: dict[str, Any] = json.loads(whole.read_text(encoding="utf-8"))
        if "image_processor" in settings:
            return whole, settings["image_processor"]
    if part.is_file():
        return part, json.loads(part.read_text(encoding="utf-8"))
    raise SettingError(
        "model.path",
        str(folder),
        "no settings of an image processor there, in preprocessor_config.json or processor_config.json",
        "copy the processor files of the original checkpoint",
    )


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


def take_single_frames(visual: nn.Module) -> None:
    """Lets one vision tower take the patches of one frame of a still, [n, 3 x P x P]; the stock layout stays legal.

    A still is T equal frames, so the 3-D convolution over them is a product with the sum of its slices: the same
    numbers from 1/T of the values, and no convolution. Only this instance changes.
    """
    embed: Any = visual.patch_embed
    embed.forward = MethodType(_embed, embed)


def _embed(self: Any, patches: Tensor) -> Tensor:
    weight = self.proj.weight  # [hidden, 3, T, P, P]
    frames = patches.shape[-1] // weight[0, :, 0].numel()
    flat = weight.sum(2).flatten(1) if frames == 1 else weight.flatten(1)
    return F.linear(patches.to(weight.dtype), flat, self.proj.bias)
