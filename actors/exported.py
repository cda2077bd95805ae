"""A player for an exported model, with an engine in this process that has room for what it was trained to be asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from actors.player import Player
from actors.vllm_engine import VllmEngine
from pointing.drawing import open_image
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import read_info, read_tokenizer
from policy.conversation.spoken import Spoken
from schemas.config import Data, EngineOptions, Rollout

TOGETHER = 32  # samples that the engine computes at once
TEXT_TOKENS = 1024  # room for the words of a conversation that are not sampled
FLOAT_BYTES = 4


def open_player(
    model: str, spoken: Spoken, images: int, min_pixels: int, opened: Callable[[str], Image] = open_image
) -> Player:
    """`images` is how many a question has at most, `min_pixels` the least area in which the model is shown one.

    `opened` gives the image that a task names. A process can have one engine.
    """
    info = read_info(model, "--model")
    chat = ChatFormat(read_tokenizer(model), spoken.system_prompt)
    data = Data(
        train_files="-",  # nothing is read from files of data
        system_prompt=spoken.system_prompt,
        prompt_style="short",  # the prompt is whole already
        min_pixels=min_pixels,
        max_pixels=spoken.max_pixels,
        max_images=images,
    )
    longest = spoken.max_turns * (spoken.max_new_tokens + TEXT_TOKENS)
    longest += (images + spoken.max_turns - 1) * (spoken.max_pixels // info.family.grid**2)
    rollout = Rollout(
        max_turns=spoken.max_turns, max_tokens_per_turn=spoken.max_new_tokens, engine=_engine(model, longest)
    )
    engine = VllmEngine(
        model,
        rollout.engine,
        forbidden_ids=chat.forbidden_ids(info.vocab_size),
        max_images=images + spoken.max_turns - 1,
        pixels=data.pixels,
        seed=0,
    )
    return Player(engine, info, chat, data, rollout, opened)


def _engine(model: str, longest: int) -> EngineOptions:
    """Room for two of the longest conversations at once at least, within what the model can read."""
    whole: dict[str, Any] = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = whole.get("text_config", whole)
    length = min(longest, int(text.get("max_position_embeddings", longest)))
    heads = int(text.get("num_key_value_heads") or text["num_attention_heads"])
    width = int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])
    token = 2 * int(text["num_hidden_layers"]) * heads * width * FLOAT_BYTES
    options = EngineOptions(max_model_len=length, max_num_seqs=TOGETHER)
    return options.model_copy(
        update={
            "dtype": "bfloat16" if torch.cuda.is_available() else "float32",
            "kv_cache_bytes": max(options.kv_cache_bytes, 2 * length * token),
        }
    )
