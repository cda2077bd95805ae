"""The small vision-language model of this project, written as an ordinary checkpoint folder.

    tokenizer -> model -> folder: config, generation config, weights, tokenizer, chat template, processor

It is a Qwen2.5-VL (or Qwen2-VL, Qwen3-VL) of under a million parameters with its own small tokenizer, so transformers
and vLLM load it like the published models. On a CPU it trains in minutes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from policy.tiny.tokenizer import (
    END_OF_TEXT,
    END_OF_TURN,
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    build_tokenizer,
    coordinate_ids,
    token_id,
)

Architecture = Literal["qwen2_5_vl", "qwen2_vl", "qwen3_vl"]

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS = 128, 256, 3, 4, 2  # head_dim 32, the smallest that vLLM's CPU attention takes
VISION_HIDDEN, VISION_FFN, VISION_DEPTH, VISION_HEADS = 64, 128, 4, 2  # two blocks find hands, four also what they mean
ROPE = {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 6, 6]}  # short base: positions stay below ~200
MERGE = 2
MIN_PIXELS, MAX_PIXELS = 56 * 56, 1024 * 1024  # wide: the rollouts put images on the grid, a processor never resizes
IMAGE_MEAN, IMAGE_STD = [0.62] * 3, [0.18] * 3  # of the synthetic scenes
VOCABULARY_MULTIPLE = 64


def build_tiny(
    folder: str | Path,
    architecture: Architecture = "qwen2_5_vl",
    seed: int = 0,
    *,
    scale: float = 1.0,
    ordinal: bool = True,
) -> Path:
    """Writes a complete checkpoint with random weights and returns its folder.

    Args:
        folder: created if needed; files of an earlier checkpoint in it are overwritten.
        architecture: the model family, as HF's `model_type`.
        seed: of the weights; the same seed gives the same file.
        scale: factor on every weight matrix. Above 1 the output is farther from uniform, which makes a comparison of
            log-probabilities between two engines a sharper test.
        ordinal: start coordinate embeddings as Fourier features of their value, so that near numbers begin near.
    """
    folder = Path(folder)
    tokenizer = build_tokenizer(default_system=architecture != "qwen3_vl")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(architecture, tokenizer)
        _initialise(model, scale)
        if ordinal:
            _order_coordinates(model, coordinate_ids(tokenizer), scale)
    generation = model.generation_config
    assert generation is not None
    generation.eos_token_id = [token_id(tokenizer, END_OF_TURN), token_id(tokenizer, END_OF_TEXT)]
    generation.pad_token_id = token_id(tokenizer, END_OF_TEXT)
    model.save_pretrained(folder)
    _processor(architecture, tokenizer).save_pretrained(folder)
    return folder


def _model(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    text: dict[str, Any] = {
        "vocab_size": math.ceil(len(tokenizer) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 4096,
        "rope_parameters": ROPE,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "bos_token_id": token_id(tokenizer, END_OF_TEXT),
        "eos_token_id": token_id(tokenizer, END_OF_TURN),
        "pad_token_id": token_id(tokenizer, END_OF_TEXT),
    }
    vision: dict[str, Any] = {
        "depth": VISION_DEPTH,
        "num_heads": VISION_HEADS,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "in_channels": 3,
    }
    shared: dict[str, Any] = {
        "tie_word_embeddings": True,
        "image_token_id": token_id(tokenizer, IMAGE_PAD),
        "video_token_id": token_id(tokenizer, VIDEO_PAD),
        "vision_start_token_id": token_id(tokenizer, VISION_START),
        "vision_end_token_id": token_id(tokenizer, VISION_END),
    }
    if architecture == "qwen2_5_vl":
        vision |= {
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": VISION_FFN,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": list(range(VISION_DEPTH)),
        }
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **shared))
    if architecture == "qwen2_vl":
        vision |= {
            "embed_dim": VISION_HIDDEN,
            "hidden_size": HIDDEN,
            "mlp_ratio": VISION_FFN // VISION_HIDDEN,
            "patch_size": 14,
        }
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **shared))
    text |= {"head_dim": HIDDEN // HEADS, "rope_parameters": ROPE | {"mrope_interleaved": True}}
    vision |= {
        "hidden_size": VISION_HIDDEN,
        "intermediate_size": VISION_FFN,
        "out_hidden_size": HIDDEN,
        "patch_size": 16,
        "num_position_embeddings": 64,  # a grid of 8 x 8, interpolated to the image
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **shared))


@torch.no_grad()
def _initialise(model: PreTrainedModel, scale: float) -> None:
    """Fan-in initialisation: the libraries' fixed 0.02 leaves a model of width 128 nearly linear for a long time."""
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            continue
        if "embed_tokens" in name or "pos_embed" in name:
            std = 0.02 if "embed_tokens" in name else 0.3
        else:
            std = weight[0].numel() ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):  # they add to the residual stream, twice a layer
                std *= (2 * LAYERS) ** -0.5
        torch.nn.init.normal_(weight, 0.0, std * scale)


@torch.no_grad()
def _order_coordinates(model: PreTrainedModel, ids: list[int], scale: float, harmonics: int = 16) -> None:
    """Makes the embedding of coordinate c a random projection of cos(pi k c / C) and sin(pi k c / C), k = 1, 2, ...

    Amplitudes fall as 1/sqrt(k): near numbers start alike, far ones do not.
    """
    phase = torch.arange(len(ids)).float()[:, None] / len(ids) * math.pi * torch.arange(1, harmonics + 1)
    features = torch.cat([phase.cos(), phase.sin()], 1) / torch.arange(1, harmonics + 1).float().sqrt().repeat(2)
    table = features @ torch.randn(2 * harmonics, HIDDEN)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    embedding.weight[ids] = table / table.std() * 0.04 * scale


def _processor(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    patch = 16 if architecture == "qwen3_vl" else 14
    pixels: dict[str, Any] = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    vision: dict[str, Any] = {"patch_size": patch, "temporal_patch_size": 2, "merge_size": MERGE, "size": pixels}
    vision |= {"image_mean": IMAGE_MEAN, "image_std": IMAGE_STD}
    images = Qwen2VLImageProcessorPil(**vision)
    kinds = {
        "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
        "qwen2_vl": (Qwen2VLProcessor, Qwen2VLVideoProcessor),
        "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
    }
    processor, video = kinds[architecture]
    template = tokenizer.chat_template
    return processor(
        image_processor=images, tokenizer=tokenizer, video_processor=video(**vision), chat_template=template
    )
