"""What a checkpoint folder says of itself, read without its weights: model family, special ids, tokenizer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pointing.coordinates import FAMILIES, Family
from schemas.config import Model
from schemas.config.file import SettingError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a model that players and collators need.

    `vocab_size` is that of the output layer, which may be larger than the tokenizer.
    """

    path: str
    family: Family
    image_token_id: int
    vocab_size: int


def read_info(path: str, field: str = "model.path") -> ModelInfo:
    """Reads config.json of a Hugging Face checkpoint folder, which the setting `field` names.

    Raises SettingError when there is none, when it cannot be read, and for a model family that is not supported.
    """
    file = Path(path) / "config.json"
    if not file.is_file():
        raise SettingError(field, path, "no config.json there", _where_to_get(path))
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind = config.get("model_type")
        if isinstance(kind, str) and kind in FAMILIES:
            text = config.get("text_config", config)
            return ModelInfo(path, FAMILIES[kind], config["image_token_id"], text["vocab_size"])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SettingError(field, path, f"config.json cannot be used ({error!r})", "download it again") from None
    raise SettingError(field, path, f"model_type={kind!r} is not supported", f"use one of {', '.join(FAMILIES)}")


def _where_to_get(path: str) -> str:
    """What to do about a path without a model; a name such as "Qwen/Qwen2.5-VL-3B-Instruct" is one of the Hub."""
    if _HUB_ID.fullmatch(path) and not Path(path).exists():
        here = path.rpartition("/")[2]
        return (
            f"models are read from folders: if this is a name on the Hugging Face Hub, run `hf download {path} "
            f"--local-dir {here}` and give {here!r}"
        )
    return "give the folder of a Hugging Face checkpoint"


def model_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """The tokenizer of a configured model, with its own chat template or the configured one.

    Raises SettingError when the template cannot be read.
    """
    tokenizer = read_tokenizer(model.path, trust_remote_code=model.trust_remote_code)
    template = own_template(model)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def own_template(model: Model) -> str | None:
    """The configured chat template; None where it is the checkpoint's. Raises SettingError when it cannot be read."""
    if model.chat_template is None:
        return None
    try:
        return Path(model.chat_template).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingError(
            "model.chat_template",
            model.chat_template,
            f"cannot be read ({error.strerror})",
            "give the path of a Jinja file",
        ) from None


def read_tokenizer(path: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer with its chat template."""
    return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
