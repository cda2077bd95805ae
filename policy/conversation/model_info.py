"""What a checkpoint folder says of itself, read without its weights: model family, special ids, tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pointing.coordinates import FAMILIES, Family
from schemas.config import Model
from schemas.config_file import ConfigError


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a model that players and collators need.

    `vocab_size` is that of the output layer, which may be larger than the tokenizer.
    """

    path: str
    family: Family
    image_token_id: int
    vocab_size: int


def read_info(path: str) -> ModelInfo:
    """Reads config.json of a Hugging Face checkpoint folder.

    Raises FileNotFoundError when there is none, ValueError for a model family that is not supported.
    """
    file = Path(path) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"model.path={path!r}: no config.json there; give the folder of a Hugging Face checkpoint"
        )
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"{file}: model_type={kind!r} is not supported; use one of {', '.join(FAMILIES)}")
    text = config.get("text_config", config)
    return ModelInfo(path, FAMILIES[kind], config["image_token_id"], text["vocab_size"])


def model_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """The tokenizer of a configured model, with its own chat template or the configured one.

    Raises ConfigError when the template cannot be read.
    """
    tokenizer = read_tokenizer(model.path, trust_remote_code=model.trust_remote_code)
    template = own_template(model)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def own_template(model: Model) -> str | None:
    """The configured chat template; None where it is the checkpoint's. Raises ConfigError when it cannot be read."""
    if model.chat_template is None:
        return None
    try:
        return Path(model.chat_template).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"model.chat_template={model.chat_template!r}: cannot be read ({error.strerror}); give the path of a "
            "Jinja file"
        ) from None


def read_tokenizer(path: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer with its chat template."""
    return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
