"""The model that is trained, and its adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from schemas.config.types import DType
from schemas.task import Record


class Lora(Record):
    """Low-rank adapters (peft). Only they are trained, saved and sent; the sampler merges them."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    exclude: str | None = r".*visual.*"


class Model(Record):
    """The policy. `path` is a Hugging Face checkpoint folder of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model."""

    path: str
    chat_template: str | None = None  # a Jinja file in place of the checkpoint's own template, in the export too
    dtype: DType = "float32"
    # "varlen" tells sequences apart by where they start: torch's FlashAttention on a GPU, no mask anywhere. The others
    # are transformers' own.
    attention: Literal["varlen", "sdpa", "flash_attention_2", "eager"] = "varlen"
    freeze_vision: bool = False
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    lora: Lora | None = None
