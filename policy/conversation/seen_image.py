"""Images as the model sees them: on its grid, once, with their lossless bytes and their place in a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from PIL.Image import Image

from pointing.coordinates import Family, Size, fit_to_grid
from pointing.drawing import digest, encode_png, resize
from policy.conversation.ledger import ImageRef


@dataclass(frozen=True, slots=True)
class Seen:
    """An image on the model's grid, its PNG bytes, and what a ledger keeps of it."""

    image: Image
    png: bytes
    ref: ImageRef


def see(original: Image, family: Family, min_pixels: int, max_pixels: int) -> Seen:
    """Resizes an image onto the family's grid within the pixel bounds; processors then have nothing left to resize."""
    size = fit_to_grid(Size(*original.size), family.grid, min_pixels, max_pixels)
    return encode(resize(original, size), family)


def encode(image: Image, family: Family) -> Seen:
    """An image that is on the grid already (one with a ray drawn in).

    Raises ValueError when its sides are not multiples of the grid.
    """
    if image.width % family.grid or image.height % family.grid:
        raise ValueError(
            f"an image of {image.width}x{image.height} is off the grid of {family.grid} pixels of {family}"
        )
    png = encode_png(image)
    rows, columns = image.height // family.patch, image.width // family.patch
    return Seen(image, png, ImageRef(digest(png), (1, rows, columns), rows * columns // family.merge**2))
