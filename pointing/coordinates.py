"""The frames in which a model speaks of an image, and the one conversion each way.

    original pixels --to grid--> seen pixels        the image a model sees is the original resized to its grid
    model frame = pixels of the seen image (Qwen2.5-VL), or thousandths of width and height (Qwen2-VL, Qwen3-VL)

Ground truth, rewards and metrics are in original pixels, replies in the model's frame, drawn rays in seen pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pointing.geometry import Box, Point

FrameKind = Literal["pixels", "thousandths"]
MAX_ASPECT = 200.0


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels, both at least 1.

    >>> Size(640, 480).width
    640
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"size {self.width}x{self.height}: both sides must be at least 1 pixel")

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def aspect(self) -> float:
        """The longer side over the shorter one."""
        return max(self.width, self.height) / min(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Family:
    """How one model family cuts images into tokens and writes coordinates.

    >>> FAMILIES["qwen2_5_vl"].grid
    28
    """

    name: str
    frame_kind: FrameKind
    patch: int
    merge: int

    @property
    def grid(self) -> int:
        """Side in pixels of the square that becomes one visual token; image sides are multiples of it."""
        return self.patch * self.merge


# Keyed by the `model_type` of a Hugging Face configuration.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "qwen2_vl": Family("qwen2_vl", "thousandths", 14, 2),
        "qwen2_5_vl": Family("qwen2_5_vl", "pixels", 14, 2),
        "qwen3_vl": Family("qwen3_vl", "thousandths", 16, 2),
    }
)


def fit_to_grid(size: Size, grid: int, min_pixels: int, max_pixels: int) -> Size:
    """The size at which a model sees an image: sides are multiples of `grid`, area in [min_pixels, max_pixels].

    The same answer as the resize rule of Qwen's image processors, and a fixed point of it, so that their own resize
    changes nothing. Raises ValueError for a side ratio above 200, and where no such size exists near the aspect ratio.

    >>> fit_to_grid(Size(640, 480), 28, 3136, 1_003_520)
    Size(width=644, height=476)
    """
    fitted = _resize_rule(size, grid, min_pixels, max_pixels)
    if max(size.aspect, fitted.aspect) > MAX_ASPECT:  # processors refuse either
        raise ValueError(
            f"image of {size.width}x{size.height}: sides differ by more than {MAX_ASPECT:g} times; crop it"
        )
    if not min_pixels <= fitted.area <= max_pixels:
        raise ValueError(
            f"image of {size.width}x{size.height} would become {fitted.width}x{fitted.height} on a grid of {grid}, "
            f"outside min_pixels {min_pixels} .. max_pixels {max_pixels}; widen these bounds or crop the image"
        )
    return fitted


def _resize_rule(size: Size, grid: int, min_pixels: int, max_pixels: int) -> Size:
    # Python's round (halves to even) and the order of the divisions matter: processors do exactly this.
    width, height = round(size.width / grid) * grid, round(size.height / grid) * grid
    if width * height > max_pixels:
        shrink = math.sqrt(size.area / max_pixels)
        width = max(grid, math.floor(size.width / shrink / grid) * grid)
        height = max(grid, math.floor(size.height / shrink / grid) * grid)
    elif width * height < min_pixels:
        grow = math.sqrt(min_pixels / size.area)
        width = math.ceil(size.width * grow / grid) * grid
        height = math.ceil(size.height * grow / grid) * grid
    return Size(max(width, grid), max(height, grid))


@dataclass(frozen=True, slots=True)
class Frame:
    """How a reply about one image writes coordinates, with the sizes needed to convert them.

    >>> frame = Frame("thousandths", original=Size(1280, 720), seen=Size(644, 364))
    >>> frame.to_original(500, 500), frame.from_original(640, 360), frame.to_seen(500, 500)
    ((640.0, 360.0), (500, 500), (322.0, 182.0))
    """

    kind: FrameKind
    original: Size
    seen: Size

    @classmethod
    def identity(cls) -> Frame:
        """The frame of replies that already speak in original pixels, of an image of any size."""
        # A power of two, by which multiplying and dividing is exact.
        return cls("pixels", Size(1 << 30, 1 << 30), Size(1 << 30, 1 << 30))

    @property
    def is_identity(self) -> bool:
        """True if the model's frame is the original image's pixels."""
        original, seen = self.original, self.seen
        return self.kind == "pixels" and original.width == seen.width and original.height == seen.height

    @property
    def limits(self) -> Size:
        """The frame's coordinates of the image's lower right corner."""
        return self.seen if self.kind == "pixels" else Size(1000, 1000)

    def to_original(self, x: float, y: float) -> Point:
        """From the model's frame to original pixels."""
        limits = self.limits
        return x * self.original.width / limits.width, y * self.original.height / limits.height

    def from_original(self, x: float, y: float) -> tuple[int, int]:
        """From original pixels to the model's frame, rounded to the whole numbers that a transcript writes."""
        limits = self.limits
        return round(x * limits.width / self.original.width), round(y * limits.height / self.original.height)

    def to_seen(self, x: float, y: float) -> Point:
        """From the model's frame to pixels of the seen image."""
        limits = self.limits
        return x * self.seen.width / limits.width, y * self.seen.height / limits.height

    def box_to_original(self, box: Box) -> Box:
        """`to_original` of both corners."""
        return (*self.to_original(box[0], box[1]), *self.to_original(box[2], box[3]))

    def box_from_original(self, box: Box) -> tuple[int, int, int, int]:
        """`from_original` of both corners."""
        return (*self.from_original(box[0], box[1]), *self.from_original(box[2], box[3]))

    def box_to_seen(self, box: Box) -> Box:
        """`to_seen` of both corners."""
        return (*self.to_seen(box[0], box[1]), *self.to_seen(box[2], box[3]))
