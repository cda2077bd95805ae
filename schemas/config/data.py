"""Task files, and how the model sees them."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import PositiveInt, field_validator, model_validator

from schemas.task import Record


class Data(Record):
    """Task files and how the model sees them. Pixel bounds are areas of the image that the model sees."""

    train_files: tuple[str, ...] | str
    validation_files: tuple[str, ...] | str = ()
    test_files: tuple[str, ...] | str = ()
    image_dir: str | None = None  # default: the folder of each file
    unpack_dir: str | None = None  # where images inside Parquet files are written to, by digest; every node must see it
    prompt_key: str = "prompt"
    ground_truth_key: str = "ground_truth"
    image_key: str = "images"
    video_key: str = "videos"
    transcript_key: str = "transcript"  # of stage 1: what the assistant should say, in rows that have it
    # "short" asks the question alone, "detailed" describes tool and answer after it, a Jinja file wraps {{ content }}.
    prompt_style: str = "detailed"
    system_prompt: str | None = None  # None keeps the chat template's own
    min_pixels: PositiveInt = 256 * 28 * 28
    max_pixels: PositiveInt = 1280 * 28 * 28
    max_prompt_tokens: PositiveInt = 4096
    max_images: PositiveInt = 4  # of one task; engines make room for so many, and for one more each further turn
    on_error: Literal["fail", "skip"] = "fail"
    shuffle: bool = True

    @property
    def pixels(self) -> tuple[int, int]:
        """Least and largest area of an image as the model sees it."""
        return self.min_pixels, self.max_pixels

    @field_validator("prompt_style")
    @classmethod
    def _known_style(cls, value: str) -> str:
        if value not in ("short", "detailed") and not re.fullmatch(r".+\.(jinja|jinja2|j2)", value):
            raise ValueError("expected short, detailed or the path of a Jinja file, which ends in .jinja or .j2")
        return value

    @model_validator(mode="after")
    def _pixel_bounds(self) -> Data:
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}; lower one or raise the other"
            )
        return self
