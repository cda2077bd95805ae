"""Looks at image files before a run begins: are they images, whole, of a usable size, and do boxes lie inside them.

Cheap, since a dataset may have a million: sizes come from headers; PNG is checked by its checksums and JPEG by its
end marker. Only a file that looks odd, or of another format, is decoded.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from pointing.coordinates import Size
from pointing.drawing import MAX_PIXELS, ImageError, open_image
from pointing.ground_truth import FieldError
from schemas.task import GroundTruth

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_TAIL = 1024  # bytes; some cameras write padding after JPEG's end marker


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> Size:
    """Width and height of a file as `open_image` will return it. Raises ImageError if it cannot be used."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is stricter
            with Image.open(path) as image:
                width, height = image.size
                sideways = _orientation(image) in _SIDEWAYS
                kind = image.format
        if width * height > max_pixels:
            raise ImageError(f"{path}: {width}x{height} is more than {max_pixels} pixels; make it smaller")
        if not _looks_whole(path, kind):
            open_image(path, max_pixels)
    except ImageError:
        raise
    except Exception as error:  # Pillow raises a dozen types on broken files
        raise ImageError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})") from error
    return Size(height, width) if sideways else Size(width, height)


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # asking would decode the whole file, to look for it after the pixels
    return image.getexif().get(_ORIENTATION, 1)


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


def check_inside(truth: GroundTruth, size: Size, field: str) -> None:
    """Raises FieldError if a box or keypoint, or where the ray starts, lies outside the first image.

    A hundredth of each side is allowed for rounding. Coordinates of a resized copy are the usual cause.
    """
    points: list[tuple[str, tuple[float, float]]] = []
    for name, box in (("hand_bbox", truth.hand_bbox), ("obj_bbox", truth.obj_bbox)):
        if box is not None:
            points += [(name, box[:2]), (name, box[2:])]
    points += [("pointing_keypoints", point) for point in truth.pointing_keypoints or ()]
    if truth.pointing_ray is not None:
        points.append(("pointing_ray.start", truth.pointing_ray.start))
    for name, (x, y) in points:
        spare_x, spare_y = max(2.0, size.width / 100), max(2.0, size.height / 100)
        if not (-spare_x <= x <= size.width + spare_x and -spare_y <= y <= size.height + spare_y):
            raise FieldError(
                f"{field}.{name}",
                f"({x:g}, {y:g}) lies outside the image of {size.width}x{size.height}; "
                "ground truth is in pixels of the file as it is, turned upright",
            )
