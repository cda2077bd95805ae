"""Images for a page: made small, each once, as data URIs, and together no more than a bound."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pointing.drawing import ImageError, open_image

LONGEST = 448  # pixels of the longer side
MOST_BYTES = 16 * 1024 * 1024  # of all data URIs; the page's text comes on top
_QUALITY = 82


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of the page: its id there, its size in pixels of the original, and its content as a data URI.

    >>> Picture("image-0", 640, 480, "data:image/png;base64,").width
    640
    """

    id: str
    width: int
    height: int
    uri: str


class Pictures:
    """The images of a page, by the ids of their tasks. `files` says where each task's first image lies."""

    def __init__(self, files: Mapping[str, str], most_bytes: int = MOST_BYTES) -> None:
        self._files = files
        self._left = most_bytes
        self._made: dict[str, Picture] = {}
        self.without_room: set[str] = set()  # tasks whose image was left out
        self.unreadable: dict[str, str] = {}  # tasks without an image that can be read, and why

    @property
    def all(self) -> tuple[Picture, ...]:
        """Every image of the page."""
        return tuple(self._made.values())

    def of(self, task: str) -> Picture | None:
        """The image of a task, None where it cannot be had; see the attributes for why."""
        if task in self._made:
            return self._made[task]
        if task in self.without_room or task in self.unreadable:
            return None
        if task not in self._files:
            self.unreadable[task] = "its task is not in the data files"
            return None
        try:
            image = open_image(Path(self._files[task]))
        except (ImageError, OSError) as error:
            self.unreadable[task] = str(error)
            return None
        uri = data_uri(image)
        if len(uri) > self._left:
            self.without_room.add(task)
            return None
        self._left -= len(uri)
        self._made[task] = Picture(f"image-{len(self._made)}", image.width, image.height, uri)
        return self._made[task]

    def notes(self) -> list[str]:
        """What is missing, in lines for people."""
        said: list[str] = []
        if self.without_room:
            said.append(f"{len(self.without_room)} images are left out, lest the page grow too large")
        if self.unreadable:
            task, why = next(iter(self.unreadable.items()))
            said.append(f"{len(self.unreadable)} images cannot be read; that of {task}: {why}")
        return said


def data_uri(image: Image.Image) -> str:
    """A small copy of an image, as PNG or JPEG, whichever is shorter: drawn scenes are that as PNG."""
    small = image.convert("RGB")
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    png, jpeg = io.BytesIO(), io.BytesIO()
    small.save(png, "PNG", optimize=True)
    small.save(jpeg, "JPEG", quality=_QUALITY, optimize=True)
    kind, content = min((("png", png), ("jpeg", jpeg)), key=lambda each: each[1].tell())
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
