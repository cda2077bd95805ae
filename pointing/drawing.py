"""Images: safe loading, resizing, drawing a ray, and lossless bytes with their digest. Pixels of the image at hand."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from pointing.coordinates import Size
from pointing.geometry import Point, Segment, clip_segment, distance
from pointing.tool import COLOR

MAX_PIXELS = 64_000_000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TRUECOLOUR, _FILTER_UP = 2, 2


class ImageError(ValueError):
    """A file or byte string is not an image that can be used; the message names it and the reason."""


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Loads a file as RGB, turned upright as its EXIF orientation says (so width and height may swap).

    Raises ImageError naming the file if it is missing, not an image, truncated, or larger than `max_pixels`.
    """
    return _load(path, str(path), max_pixels)


def decode_png(png: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The RGB image of `encode_png`'s bytes. Raises ImageError if they are not an image."""
    return _load(io.BytesIO(png), f"image of {len(png)} bytes", max_pixels)


def decode_upload(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image file's bytes as `open_image` would read them: upright, RGB, of several frames the first.

    Raises ImageError where they are not an image, are cut off, or are larger than `max_pixels`.
    """
    return _load(io.BytesIO(content), f"an upload of {len(content)} bytes", max_pixels)


def _load(source: str | Path | io.BytesIO, name: str, max_pixels: int) -> Image.Image:
    try:
        with Image.open(source) as opened:
            if opened.width * opened.height > max_pixels:  # the header alone is read so far
                raise ImageError(
                    f"{name}: {opened.width}x{opened.height} is more than {max_pixels} pixels; make it smaller"
                )
            return ImageOps.exif_transpose(opened).convert("RGB")
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types on broken files, and any of them means just that
        said = "of no known kind" if isinstance(error, UnidentifiedImageError) else f"{type(error).__name__}: {error}"
        raise ImageError(f"{name}: cannot be read as an image ({said})") from error


def encode_png(image: Image.Image) -> bytes:
    """Lossless bytes of an RGB image: one PNG (W3C PNG, third edition, sections 5 and 9).

    Fast, since these bytes live for one step: every line has the filter "up", where Pillow tries five on each, which
    takes two to three times as long and is hardly smaller.
    """
    pixels = np.asarray(image.convert("RGB"))
    lines = np.empty((image.height, 1 + 3 * image.width), np.uint8)
    lines[:, 0] = _FILTER_UP
    lines[:, 1:] = pixels.reshape(image.height, -1)
    lines[1:, 1:] -= pixels[:-1].reshape(image.height - 1, -1)
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, _TRUECOLOUR, 0, 0, 0)
    return b"".join(
        (_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(lines.tobytes(), 1)), _chunk(b"IEND", b""))
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return b"".join(
        (struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))
    )


def digest(png: bytes) -> str:
    """32 hex digits that name an image by its encoded bytes (BLAKE2b of 16 bytes)."""
    return hashlib.blake2b(png, digest_size=16).hexdigest()


def resize(image: Image.Image, size: Size) -> Image.Image:
    """The image at `size`, bicubic as in Qwen's processors; the same object if it has that size already."""
    if image.size == (size.width, size.height):
        return image
    return image.resize((size.width, size.height), Image.Resampling.BICUBIC)


def line_width(image: Image.Image) -> int:
    """Width in pixels of a ray on this image: one hundredth of the shorter side, and at least 2."""
    return max(2, round(min(image.size) / 100))


def visible_part(start: Point, end: Point, size: Size) -> Segment:
    """The part of a line that can be drawn on an image of `size`. Raises ValueError as `draw_ray` does."""
    inside = clip_segment(start, end, size.width, size.height)
    if inside is None or distance(*inside) < 1:
        raise ValueError(f"no part of the ray {start} -> {end} can be drawn on an image of {size.width}x{size.height}")
    return inside


def draw_ray(image: Image.Image, start: Point, end: Point, color: str = COLOR, width: int | None = None) -> Image.Image:
    """A copy of the image with the line from `start` to `end` on it, both in pixels of this image.

    What lies outside the image is cut off. Raises ValueError if nothing is left to draw: the line is wholly outside,
    is shorter than a pixel, or a coordinate is not finite.
    """
    inside = visible_part(start, end, Size(image.width, image.height))
    drawn = image.copy()
    right, bottom = image.width - 1, image.height - 1
    points = [(min(round(x), right), min(round(y), bottom)) for x, y in inside]
    ImageDraw.Draw(drawn).line(points, fill=color, width=line_width(image) if width is None else width)
    return drawn
