"""Checkpoint folders whose config.json has the sizes of published models; no weights of that size."""

import json
from pathlib import Path
from typing import Any

THREE, SEVEN = "3b", "7b"
TEXT = {
    THREE: {"hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_key_value_heads": 2},
    SEVEN: {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4},
}
VOCABULARY = {THREE: 151936, SEVEN: 152064}
LAYERS = {THREE: 36, SEVEN: 28}


def write_sizes(folder: Path, size: str, layers: int | None = None, vision_blocks: int = 32) -> Path:
    """Rewrites the config.json of a tiny Qwen2.5-VL; its special ids and tokenizer stay."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    layers = layers or LAYERS[size]
    tied = size == THREE
    config["tie_word_embeddings"] = tied
    config["text_config"] |= TEXT[size] | {
        "num_hidden_layers": layers,
        "vocab_size": VOCABULARY[size],
        "layer_types": ["full_attention"] * layers,
        "max_window_layers": layers,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": tied,
    }
    config["vision_config"] |= {
        "depth": vision_blocks,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": TEXT[size]["hidden_size"],
        "window_size": 112,
        "fullatt_block_indexes": [n for n in (7, 15, 23, 31) if n < vision_blocks] or [vision_blocks - 1],
    }
    file.write_text(json.dumps(config))
    return folder


def write_qwen2_2b(folder: Path, layers: int = 28, blocks: int = 32) -> Path:
    """Rewrites the config.json of a tiny Qwen2-VL to the sizes of the 2B."""
    text = {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision = {"depth": blocks, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4}
    whole = ["full_attention"] * layers
    return _rewritten(
        folder,
        text | {"num_hidden_layers": layers, "layer_types": whole, "vocab_size": 151936, "rope_parameters": rope},
        vision,
    )


def write_qwen3_4b(folder: Path, layers: int = 36, blocks: int = 24) -> Path:
    """Rewrites the config.json of a tiny Qwen3-VL to the sizes of the 4B, without its deep stack."""
    text = {"hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32, "num_key_value_heads": 8}
    sections = {"mrope_section": [24, 20, 20], "mrope_interleaved": True}
    rope = {"rope_type": "default", "rope_theta": 5e6} | sections
    vision = {"depth": blocks, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2560}
    return _rewritten(
        folder,
        text | {"head_dim": 128, "num_hidden_layers": layers, "vocab_size": 151936, "rope_parameters": rope},
        vision | {"num_position_embeddings": 2304, "deepstack_visual_indexes": []},
    )


def _rewritten(folder: Path, text: dict[str, Any], vision: dict[str, Any]) -> Path:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["text_config"] |= text
    config["vision_config"] |= vision
    file.write_text(json.dumps(config))
    return folder
