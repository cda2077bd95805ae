"""Whether an image file can be read to its last pixel."""

from __future__ import annotations

from pathlib import Path

from orchestrator.preflight.jpeg_damage import jpeg_damage
from pointing.drawing import ImageError, open_image


def image_damage(file: Path) -> str:
    """What is wrong with an image file when all of it is decoded; "" of a whole one. Raises OSError."""
    try:
        open_image(file)
    except ImageError as error:
        return str(error).removeprefix(f"{file}: ")
    return jpeg_damage(file)
