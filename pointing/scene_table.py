"""The table a synthetic scene lies on: near-grey, softly lit, faintly textured.

Near-grey on purpose: a tiny model finds coloured tiles and warm skin against grey, and did not against any hue.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageChops

from pointing.scene_layout import N_TABLES

# Factors of red, green and blue, as look-up tables of the grey level.
_TINTS = tuple(
    tuple([round(grey * factor) for grey in range(256)] for factor in tint)
    for tint in ((1.0, 0.99, 0.97), (0.97, 0.99, 1.0), (1.0, 1.0, 1.0), (1.0, 0.98, 0.985))
)


def table(kind: int, size: int, rng: np.random.Generator) -> tuple[Image.Image, tuple[list[int], ...]]:
    """The lit and textured table as an "L" image of `size` pixels a side, and its tint: a look-up table per channel."""
    corners = rng.integers(140, 216) + rng.normal(0.0, 9.0, (3, 3))
    light = Image.fromarray(np.clip(corners, 120, 228).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    left, top = rng.integers(0, size, 2).tolist()
    grain = texture(kind % N_TABLES, size).crop((left, top, left + size, top + size))
    if rng.random() < 0.5:
        grain = grain.transpose(Image.Transpose.TRANSPOSE)
    return ImageChops.add(light, grain, 1.0, -128), _TINTS[int(rng.integers(len(_TINTS)))]


@cache
def texture(kind: int, size: int) -> Image.Image:
    """A texture of twice `size` a side, 128 plus relief; the same for every scene, which takes a window of it."""
    rng = np.random.default_rng(kind)
    side = 2 * size
    relief = (_wood, _linen, _stone, _plaster)[kind](rng, side)
    return Image.fromarray(np.clip(128 + relief, 0, 255).astype(np.uint8))


def _noise(rng: np.random.Generator, rows: int, columns: int, side: int) -> np.ndarray:
    """Smooth noise of unit scale: `rows` x `columns` normal values, enlarged to a square of `side`."""
    coarse = Image.fromarray(rng.normal(0.0, 1.0, (rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def _wood(rng: np.random.Generator, side: int) -> np.ndarray:
    warp = _noise(rng, 5, 14, side)
    across = np.linspace(0.0, 26.0, side)[None, :] + 0.9 * warp
    rings = np.sin(across * 2 * np.pi) * 2.6
    return rings + 2.4 * _noise(rng, 12, 220, side) + 1.5 * _noise(rng, 40, 420, side)


def _linen(rng: np.random.Generator, side: int) -> np.ndarray:
    return 2.6 * (_noise(rng, 300, 40, side) + _noise(rng, 40, 300, side)) + 1.5 * _noise(rng, 6, 6, side)


def _stone(rng: np.random.Generator, side: int) -> np.ndarray:
    flakes = np.maximum(_noise(rng, 260, 260, side) - 1.5, 0.0) - np.maximum(_noise(rng, 220, 220, side) - 1.6, 0.0)
    return 20.0 * flakes + 3.0 * _noise(rng, 14, 14, side)


def _plaster(rng: np.random.Generator, side: int) -> np.ndarray:
    return sum((a * _noise(rng, n, n, side) for n, a in ((8, 3.0), (20, 2.4), (60, 1.8))), np.zeros((side, side)))
