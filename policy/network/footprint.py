"""What a process of each role needs of memory, estimated from the model's configuration before anything is started.

    config.json --sizes_of--> Sizes --learner_memory / reference_memory / engine_memory--> bytes by part
                                    '-checkpoint_bytes / export_bytes--> bytes on disk

The one estimate: of GPUs, of a machine without any, and of the disk. Weights, gradients and optimiser are counted
exactly, on a model without data. Activations are an upper estimate: what a block keeps for its backward pass follows
its widths, and a test holds the estimate of each family's widths to what a pass over tensors without data takes at its
peak: never less, and at most a third more. Attention keeps nothing that grows faster than the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.activations import QuickGELUActivation

from policy.network.forward import CHUNK_LOGITS
from policy.network.load import base_model, load, vision_tower
from schemas.config import Critic, Learner, Model, SftConfig, TrainConfig

MIB, GIB = 1 << 20, 1 << 30
LASTING = ("weights", "gradients", "optimiser", "reference", "KV cache")  # parts that stay from step to step
WIDTH = {"float32": 4, "bfloat16": 2}  # bytes
LOGIT_COPIES = 3  # as they come, masked, and the gradient; float32


@dataclass(frozen=True, slots=True)
class Tower:
    """A stack of equal blocks: how many, its width, and that of its feed-forward part.

    Of one token, in numbers: `kept` is what a block keeps for its backward pass, `beside` what is there besides the
    blocks (last norm, rotary tables, and what a block's backward pass makes for itself), `read` the most that is held
    without a backward pass.
    """

    blocks: int
    hidden: int
    inner: int
    kept: int
    beside: int
    read: int


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
        text=_text_tower(text, text_blocks, head),
        vision=_vision_tower(vision.config, vision_blocks),
        vision_trained=any(p.requires_grad for p in vision.parameters()),
        kv=text.num_key_value_heads * head,
        vocabulary=text.vocab_size,
        merge=vision.spatial_merge_size**2,
    )


def learner_memory(sizes: Sizes, config: TrainConfig | SftConfig) -> dict[str, float]:
    """Bytes by part where one learner rank computes. How long transcripts are is not known before they are written:
    without micro_batch_tokens, activations and logits of supervised fine-tuning are left out.
    """
    tokens = forward_tokens(config, config.learner)
    parts = _trained(sizes, config, config.learner, config.resources.learner.count, tokens)
    if isinstance(config, TrainConfig) and config.uses_reference and config.algorithm.kl.exact:
        shards = config.learner.sharding.ranks or config.resources.learner.count
        parts["reference"] = WIDTH[config.model.dtype] * sizes.weights / shards
    return parts if tokens is None else parts | {"logits": _logits(sizes, tokens)}


def critic_memory(sizes: Sizes, config: TrainConfig, critic: Critic) -> dict[str, float]:
    """Bytes by part where one critic rank computes: as a learner's, with one number for each token and no logits."""
    return _trained(sizes, config, critic, config.resources.critic.count, forward_tokens(config, critic))


def checkpoint_bytes(sizes: Sizes, learner: Learner) -> float:
    """Bytes of one checkpoint: what is trained, in float32, and the optimiser's two moments of it."""
    return sizes.trained * (4 + 2 * WIDTH[learner.optimiser.state_dtype])


def export_bytes(sizes: Sizes, model: Model) -> float:
    """Bytes of the exported weights."""
    return sizes.weights * WIDTH[model.dtype]


def _trained(
    sizes: Sizes, config: TrainConfig | SftConfig, learner: Learner, ranks: int, tokens: int | None
) -> dict[str, float]:
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
    parts = ({} if learner.sharding.cpu_offload else kept) | {"gathered": gathered if shards > 1 or width < 4 else 0.0}
    if tokens is not None:
        parts["activations"] = _activations(sizes, tokens, width, config.model.gradient_checkpointing, backward=True)
    return parts


def reference_memory(sizes: Sizes, config: TrainConfig) -> dict[str, float]:
    """Bytes by part where one reference replica computes, which holds the whole model."""
    width, tokens = WIDTH[config.model.dtype], forward_tokens(config, config.learner)
    assert tokens is not None, "known of every TrainConfig"
    return {
        "weights": float(width * sizes.weights),
        "activations": _activations(sizes, tokens, width, checkpointing=True, backward=False),
        "logits": _logits(sizes, tokens),
    }


def engine_memory(sizes: Sizes, config: TrainConfig) -> dict[str, float]:
    """Bytes by part on each GPU of one engine: its weights, and the KV cache that `max_num_seqs` sequences could fill.

    vLLM takes gpu_memory_utilization of the GPU, and what the weights leave of it is cache; with less than could be
    filled, sequences wait. On a CPU the cache is as large as kv_cache_bytes says.
    """
    engine = config.rollout.engine
    width = WIDTH[engine.dtype]
    per_token = 2 * sizes.text.blocks * sizes.kv * width / engine.tensor_parallel_size
    on_gpu = config.resources.rollout.gpus > 0
    return {
        "weights": width * sizes.weights / engine.tensor_parallel_size,
        "KV cache": per_token * engine.max_num_seqs * engine.max_model_len if on_gpu else engine.kv_cache_bytes,
    }


def forward_tokens(config: TrainConfig | SftConfig, learner: Learner) -> int | None:
    """Most tokens in one forward pass; the reference's are as the learner's. None where nothing bounds a row."""
    limits = learner.micro_batches
    longest = config.rollout.engine.max_model_len if isinstance(config, TrainConfig) else None
    by_rows = limits.rows * longest if limits.rows and longest else None
    return min((n for n in (limits.tokens, by_rows) if n is not None), default=None)


def described(parts: Mapping[str, float]) -> str:
    """The parts that are not empty and their sum, in the unit that fits the sum; what is too small for it in its own.

    >>> described({"weights": 3 * GIB, "logits": GIB / 2}), described({"weights": 3 * MIB, "logits": 300})
    ('weights 3.0 + logits 0.5 = 3.5 GiB', 'weights 3.0 + logits 0.3 KiB = 3.0 MiB')
    """
    whole = sum(parts.values())
    unit, name = _unit(whole)

    def shown(size: float) -> str:
        text = f"{size / unit:.1f}"
        return in_units(size) if text == "0.0" else text

    listed = " + ".join(f"{part} {shown(size)}" for part, size in parts.items() if size)
    return f"{listed} = {whole / unit:.1f} {name}"


def in_units(size: float) -> str:
    """Bytes for people, never a rounded nothing.

    >>> in_units(3.2 * GIB), in_units(9.6 * MIB), in_units(300)
    ('3.2 GiB', '9.6 MiB', '0.3 KiB')
    """
    unit, name = _unit(size)
    return f"{size / unit:.1f} {name}"


def _unit(size: float) -> tuple[int, str]:
    return next(((unit, name) for unit, name in ((GIB, "GiB"), (MIB, "MiB")) if size >= unit), (1 << 10, "KiB"))


def _activations(sizes: Sizes, tokens: int, width: int, checkpointing: bool, *, backward: bool) -> float:
    """Of the language model on so many tokens, and of the vision tower if all of them were visual."""
    text = _stack(sizes.text, tokens, checkpointing, backward)
    vision = _stack(sizes.vision, sizes.merge * tokens, checkpointing, backward and sizes.vision_trained)
    return width * (text + vision)


def _stack(tower: Tower, tokens: int, checkpointing: bool, backward: bool) -> float:
    if not backward:
        return tokens * tower.read
    blocks = tower.kept + tower.blocks * tower.hidden if checkpointing else tower.blocks * tower.kept
    return tokens * (tower.beside + blocks)


def _logits(sizes: Sizes, tokens: int) -> float:
    return 4 * LOGIT_COPIES * min(tokens * sizes.vocabulary, CHUNK_LOGITS)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _text_tower(text: Any, layers: Any, head: int) -> Tower:
    """Two norms keep 4 widths each, in float32 and in 16 bit; the feed-forward part gate, its activation, up and their
    product; attention queries, keys and values as they are turned, and what it returns. Float32 statistics count twice.
    """
    hidden, inner = text.hidden_size, text.intermediate_size
    heads, kv = text.num_attention_heads, text.num_key_value_heads
    attention = 2 * (heads + kv) * head + 2 * heads
    if hasattr(layers[0].self_attn, "q_norm"):
        attention += (heads + kv) * (3 * head + 2)
    kept = 8 * hidden + 4 * inner + attention + 4
    return Tower(len(layers), hidden, inner, kept, 9 * hidden + 2 * inner, 8 * hidden + 3 * inner)


def _vision_tower(config: Any, blocks: Any) -> Tower:
    """As a decoder layer, but that a LayerNorm keeps 2 widths, and values keep the product that queries and keys came
    from. What an activation keeps is its own. Without a backward pass, queries and keys in float32 hold most.
    """
    mlp = blocks[0].mlp
    linear = [module for module in mlp.modules() if isinstance(module, nn.Linear)]
    hidden, inner = linear[0].in_features, linear[0].out_features
    norms = 4 if isinstance(blocks[0].norm1, nn.LayerNorm) else 8
    quick = any(isinstance(module, QuickGELUActivation) for module in mlp.modules())
    inners = 4 if len(linear) > 2 else 3 if quick else 2  # gated or not
    kept = (norms + 6) * hidden + inners * inner + 2 * config.num_heads + 8
    beside = (norms + 1) * hidden + 2 * inner
    return Tower(len(blocks), hidden, inner, kept, beside, max(20 * hidden, 8 * hidden + 3 * inner))
