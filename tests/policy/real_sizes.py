"""A checkpoint folder whose config.json has the sizes of Qwen2.5-VL-3B or 7B; no weights of that size."""

import json
from pathlib import Path

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
