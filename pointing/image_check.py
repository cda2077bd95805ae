"""Looks at image files before a run begins: are they images, whole, of a usable size.

Cheap, since a dataset may have a million: sizes come from headers; PNG is checked by its checksums and JPEG by its
end marker. Only a file that looks odd, or of another format, is decoded.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from pointing.coordinates import Size
from pointing.drawing import MAX_PIXELS, ImageError, open_image

UPRIGHT = 1  # the EXIF orientation of an image that is not turned
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_PNG_METADATA = (b"XML:com.adobe.xmp", b"Raw profile type ")  # keywords of text chunks
_TAIL = 1024  # bytes; some cameras write padding after JPEG's end marker


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> Size:
    """Width and height of a file as `open_image` will return it. Raises ImageError if it cannot be used."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is stricter
            with Image.open(path) as image:
                width, height = image.size
                if width * height > max_pixels:  # before the orientation, which may take decoding
                    raise ImageError(f"{path}: {width}x{height} is more than {max_pixels} pixels; make it smaller")
                sideways = _orientation(image, path) in _SIDEWAYS
                kind = image.format
        if not _looks_whole(path, kind):
            open_image(path, max_pixels)
    except ImageError:
        raise
    except Exception as error:  # Pillow raises a dozen types on broken files
        raise ImageError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})") from error
    return Size(height, width) if sideways else Size(width, height)


def orientation(path: Path) -> int:
    """The EXIF orientation, 1 to 8, by which `open_image` turns a file. Raises ImageError if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its size has been looked at before
            with Image.open(path) as image:
                return _orientation(image, path)
    except Exception as error:  # as in image_size
        raise ImageError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})") from error


def _orientation(image: Image.Image, path: Path) -> int:
    """As `ImageOps.exif_transpose` finds it, in EXIF or XMP."""
    if image.format == "PNG" and not _png_says_more(path):
        return UPRIGHT  # asking would decode the whole file, to look for it after the pixels
    return image.getexif().get(_ORIENTATION, UPRIGHT)


def _png_says_more(path: Path) -> bool:
    """Whether a PNG file has EXIF or XMP in one of its chunks (W3C PNG, third edition, 5.3)."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"eXIf":
                return True
            after = file.tell() + length + 4  # a checksum ends the chunk
            if kind in (b"tEXt", b"zTXt", b"iTXt") and file.read(min(length, 80)).startswith(_PNG_METADATA):
                return True
            file.seek(after)
    return False


def _looks_whole(path: Path, kind: str | None) -> bool:
    if kind == "PNG":
        with Image.open(path) as image:
            image.verify()  # reads every chunk and its checksum; raises on a broken or missing one
        return True
    if kind == "JPEG":
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            return b"\xff\xd9" in file.read()
    return False
