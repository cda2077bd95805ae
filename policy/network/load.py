"""Loads a checkpoint folder as a policy: network, tokenizer, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pointing.coordinates import Family
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import model_tokenizer, read_info
from policy.network.attention import use_varlen
from policy.network.keywords import refuse_swallowing
from policy.network.load_sharded import initial_adapter, is_adapter
from policy.network.vision import ImageStats, read_image_stats, take_single_frames
from schemas.config import Lora, Model
from schemas.config.file import SettingError


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A network and the facts that the rest of this package needs about it.

    `by_starts` says that its attention tells sequences apart by where they start, and builds no mask.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    image_stats: ImageStats
    image_token_id: int
    vocab_size: int
    forbidden_ids: tuple[int, ...]
    by_starts: bool


def load(
    config: Model, *, device: str = "cpu", trainable: bool = True, sharded: bool = False, seed: int = 0
) -> LoadedPolicy:
    """Loads the checkpoint that `config` names.

    Trained weights are kept in float32, whatever `config.dtype` is: that is the type of the computation (see
    sharding.py). Frozen weights (all with `trainable=False`, the base under LoRA) are kept in `config.dtype`.

    Args:
        config: the model section.
        device: where the network will compute.
        trainable: False loads a model that is only read, without adapters or gradients.
        sharded: build it on the meta device, without weights: sharding comes first, then `load_sharded.fill`.
        seed: of the adapters' initial weights; the same on every rank.

    Raises SettingError or ValueError naming the folder and the remedy when it is no supported checkpoint, or the
    installed transformers is none.
    """
    refuse_attention(config)
    info = read_info(config.path)
    tokenizer = model_tokenizer(config)
    master = torch.float32 if trainable and config.lora is None else getattr(torch, config.dtype)
    model: Any = _without_weights(config, master) if sharded else _with_weights(config, master).to(device)
    refuse_swallowing(model, config.path)
    take_single_frames(model.model.visual)
    if config.attention == "varlen":
        use_varlen(model)
    if not trainable:
        model.requires_grad_(False)
    elif config.lora is not None:
        model = _with_adapters(model, config.lora, seed)
    if config.freeze_vision:
        vision_tower(model).requires_grad_(False)
    if trainable and config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        # It makes the embeddings' outputs ask for a gradient, the patches' too, which checkpoints of this kind do not
        # need: the backward pass would go through all of a frozen vision tower, for nothing.
        model.disable_input_require_grads()
    return LoadedPolicy(
        model=model,
        tokenizer=tokenizer,
        family=info.family,
        image_stats=read_image_stats(config.path),
        image_token_id=info.image_token_id,
        vocab_size=info.vocab_size,
        forbidden_ids=ChatFormat(tokenizer).forbidden_ids(info.vocab_size),
        by_starts=config.attention == "varlen",
    )


def refuse_attention(config: Model) -> None:
    """Raises SettingError where the configured attention cannot be computed in this environment."""
    if config.attention != "flash_attention_2":
        return
    if config.dtype != "bfloat16":
        raise SettingError(
            "model.attention",
            config.attention,
            f"does not compute in dtype={config.dtype!r}",
            "set model.dtype=bfloat16 or model.attention=varlen",
        )
    if find_spec("flash_attn") is None:
        raise SettingError(
            "model.attention",
            config.attention,
            "the package flash-attn is not installed here",
            "install it in the environment of every node (pip install flash-attn --no-build-isolation), or set "
            "model.attention=varlen",
        )


def base_model(model: PreTrainedModel | PeftModel) -> Any:
    """The network under the adapters, or the model itself: `.model` (vision and language) and `.lm_head`."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def vision_tower(model: PreTrainedModel | PeftModel) -> Any:
    """The vision tower: `.blocks`, `.patch_embed`, `.merger`."""
    return base_model(model).model.visual


def _implementation(config: Model) -> str:
    """transformers' name of the attention to build the model with; "varlen" takes over what "sdpa" built."""
    return "sdpa" if config.attention == "varlen" else config.attention


def _with_weights(config: Model, dtype: torch.dtype) -> Any:
    return AutoModelForImageTextToText.from_pretrained(
        config.path,
        dtype=dtype,
        attn_implementation=_implementation(config),
        trust_remote_code=config.trust_remote_code,
    )


def _without_weights(config: Model, dtype: torch.dtype) -> Any:
    """The same model with parameters on the meta device. Buffers are computed: no checkpoint holds them."""
    settings = AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModelForImageTextToText.from_config(
            settings,
            dtype=dtype,
            attn_implementation=_implementation(config),
            trust_remote_code=config.trust_remote_code,
        )
    model.tie_weights()  # what was one parameter became two when it was moved
    if (Path(config.path) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(config.path)
    return model.eval()


def _with_adapters(model: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,  # the sampler has no dropout, and the ratio would see it
            target_modules=targets,
            exclude_modules=lora.exclude,
        ),
    )
    assert isinstance(adapted, PeftModel)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if is_adapter(name) and not weight.is_meta:
                weight.copy_(initial_adapter(name, weight.shape, seed))
    return adapted
