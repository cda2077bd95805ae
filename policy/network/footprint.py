"""What a role needs of a GPU's memory, estimated from the model's configuration before anything is started.

    config.json --sizes_of--> Sizes --learner_memory / reference_memory / engine_memory--> bytes by part

Weights, gradients and optimiser are counted exactly, on a model without data. Activations are an upper estimate: what a
decoder layer keeps for its backward pass is about 8 times the hidden size and 3 times the inner one per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from policy.network.forward import CHUNK_LOGITS
from policy.network.load import base_model, load, vision_tower
from schemas.config import Critic, Learner, Model, TrainConfig

GIB = 1 << 30
WIDTH = {"float32": 4, "bfloat16": 2}  # bytes
LOGIT_COPIES = 3  # as they come, masked, and the gradient; float32


@dataclass(frozen=True, slots=True)
class Tower:
    """A stack of equal blocks: how many, its width, and that of its feed-forward part."""

    blocks: int
    hidden: int
    inner: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of weights (`stored` in bytes, as the learner keeps them), and the widths that activations follow.

    `block` is the largest unit that is gathered by itself; `root` is all that is in none, and stays gathered in a step.
    `kv` is the width of the keys of one layer, `merge` the patches in one visual token.
    """

    weights: int
    trained: int
    stored: int
    block: int
    root: int
    text: Tower
    vision: Tower
    vision_trained: bool
    kv: int
    vocabulary: int
    merge: int


def sizes_of(model: Model) -> Sizes:
    """Reads the sizes off the model that `model` describes, built without weights."""
    network = load(model.model_copy(update={"attention": "varlen"}), sharded=True).model  # all have the same sizes
    base = base_model(network)
    text, vision = base.config.text_config, vision_tower(network)
    text_blocks, vision_blocks = base.model.language_model.layers, vision.blocks
    blocks = [_count(block) for block in [*text_blocks, *vision_blocks]]
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Sizes(
        weights=_count(network),
        trained=sum(p.numel() for p in network.parameters() if p.requires_grad),
        stored=sum(p.numel() * p.element_size() for p in network.parameters()),
        block=max(blocks),
        root=_count(network) - sum(blocks),
        text=Tower(len(text_blocks), text.hidden_size, text.intermediate_size),
        vision=Tower(len(vision_blocks), *_widths(vision_blocks[0])),
        vision_trained=any(p.requires_grad for p in vision.parameters()),
        kv=text.num_key_value_heads * head,
        vocabulary=text.vocab_size,
        merge=vision.spatial_merge_size**2,
    )


def learner_memory(sizes: Sizes, config: TrainConfig) -> dict[str, float]:
    """Bytes by part on the GPU of one learner rank."""
    parts = _trained(sizes, config, config.learner, config.resources.learner_ranks)
    if config.uses_reference and config.algorithm.kl.exact:
        shards = config.learner.sharding.ranks or config.resources.learner_ranks
        parts["reference"] = WIDTH[config.model.dtype] * sizes.weights / shards
    return parts | {"logits": _logits(sizes, forward_tokens(config, config.learner))}


def critic_memory(sizes: Sizes, config: TrainConfig, critic: Critic) -> dict[str, float]:
    """Bytes by part on the GPU of one critic rank: as a learner's, with one number for each token and no logits."""
    return _trained(sizes, config, critic, config.resources.critic_ranks)


def _trained(sizes: Sizes, config: TrainConfig, learner: Learner, ranks: int) -> dict[str, float]:
    width = WIDTH[config.model.dtype]
    shards = learner.sharding.ranks or ranks
    moments = 2 * WIDTH[learner.optimiser.state_dtype]
    kept = {
        "weights": sizes.stored / shards,
        "gradients": 4 * sizes.trained / shards,
        "optimiser": moments * sizes.trained / shards,
    }
    # Two blocks at a time (one is fetched ahead) and the root, in the type of the computation; their gradients before
    # they are summed, and the sum in float32.
    trained = sizes.trained / sizes.weights
    gathered = width * (2 * sizes.block + sizes.root) + trained * (width + 4) * (sizes.block + sizes.root)
    tokens = forward_tokens(config, learner)
    return ({} if learner.sharding.cpu_offload else kept) | {
        "gathered": gathered if shards > 1 or width < 4 else 0.0,
        "activations": _activations(sizes, tokens, width, config.model.gradient_checkpointing, backward=True),
    }


def reference_memory(sizes: Sizes, config: TrainConfig) -> dict[str, float]:
    """Bytes by part on the GPU of one reference replica, which holds the whole model."""
    width, tokens = WIDTH[config.model.dtype], forward_tokens(config, config.learner)
    return {
        "weights": float(width * sizes.weights),
        "activations": _activations(sizes, tokens, width, checkpointing=True, backward=False),
        "logits": _logits(sizes, tokens),
    }


def engine_memory(sizes: Sizes, config: TrainConfig) -> dict[str, float]:
    """Bytes by part on each GPU of one engine: its weights, and the KV cache that `max_num_seqs` sequences could fill.

    vLLM takes gpu_memory_utilization of the GPU, and what the weights leave of it is cache; with less than could be
    filled, sequences wait.
    """
    engine = config.rollout.engine
    width = WIDTH[engine.dtype]
    per_token = 2 * sizes.text.blocks * sizes.kv * width / engine.tensor_parallel_size
    return {
        "weights": width * sizes.weights / engine.tensor_parallel_size,
        "KV cache": per_token * engine.max_num_seqs * engine.max_model_len,
    }


def forward_tokens(config: TrainConfig, learner: Learner) -> int:
    """Most tokens in one forward pass; the reference's are as the learner's."""
    limits, longest = learner.micro_batches, config.rollout.engine.max_model_len
    return min(n for n in (limits.tokens, limits.rows and limits.rows * longest) if n is not None)


def described(parts: Mapping[str, float]) -> str:
    """The parts and their sum in GiB.

    >>> described({"weights": 3 * GIB, "logits": GIB / 2})
    'weights 3.0 + logits 0.5 = 3.5 GiB'
    """
    return " + ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items()) + f" = {total(parts):.1f} GiB"


def total(parts: Mapping[str, float]) -> float:
    """The sum in GiB."""
    return sum(parts.values()) / GIB


def _activations(sizes: Sizes, tokens: int, width: int, checkpointing: bool, *, backward: bool) -> float:
    """Of the language model on so many tokens, and of the vision tower if all of them were visual."""
    text = _stack(sizes.text, tokens, checkpointing, backward)
    vision = _stack(sizes.vision, sizes.merge * tokens, checkpointing, backward and sizes.vision_trained)
    return width * (text + vision)


def _stack(tower: Tower, tokens: int, checkpointing: bool, backward: bool) -> float:
    layer = tokens * (8 * tower.hidden + 3 * tower.inner)
    if not backward:
        return layer
    return layer + tower.blocks * tokens * tower.hidden if checkpointing else tower.blocks * layer


def _logits(sizes: Sizes, tokens: int) -> float:
    return 4 * LOGIT_COPIES * min(tokens * sizes.vocabulary, CHUNK_LOGITS)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _widths(block: Any) -> tuple[int, int]:
    """Hidden and inner width of a vision block, off its feed-forward part."""
    linear = [module for module in block.mlp.modules() if isinstance(module, nn.Linear)]
    return linear[0].in_features, linear[0].out_features
