"""How many floating-point operations a pass through the network takes, text and vision apart, from the model itself.

    model, built without weights --rates_of--> Rates --operations(lengths, targets, grids)--> Work(text, vision)
                                                                     forward | backward | recomputed

A multiply-add is two operations, and only matrix products count. Attention is counted whole, all pairs of a sequence
(of an image, of a window), as published figures of utilisation do, though a causal kernel skips half of them; its
backward pass as twice its forward pass. The head counts for the trained ids alone: no other logits are made
(forward.py). What checkpointing computes a second time stands by itself: it is work for the machine, not for the model.

Whether a product needs a gradient follows the graph. A frozen weight passes a gradient on and has none itself, so the
backward pass under adapters costs little more than the forward pass; nothing flows back into a frozen vision tower, nor
into the first block's inputs where the embeddings are frozen too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from policy.network.forward import CHUNK_LOGITS
from policy.network.load import base_model, load, vision_tower
from policy.network.positions import Grid
from schemas.config import Model


@dataclass(frozen=True, slots=True)
class Passes:
    """Operations of the forward pass, of the backward pass, and of what the backward pass has to compute again.

    >>> (Passes(1, 2, 1) + Passes(1, 0, 0)).times(10)
    Passes(forward=20, backward=20, recomputed=10)
    """

    forward: float = 0
    backward: float = 0
    recomputed: float = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward, self.recomputed + other.recomputed)

    def times(self, count: float) -> Passes:
        """So many times as much."""
        return Passes(self.forward * count, self.backward * count, self.recomputed * count)

    @property
    def needed(self) -> float:
        """What training needs however it is computed: the two passes."""
        return self.forward + self.backward

    @property
    def done(self) -> float:
        """What the machine does to train: the two passes, and what is computed again."""
        return self.needed + self.recomputed


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of the language model with its head, and of the vision tower."""

    text: Passes = Passes()
    vision: Passes = Passes()

    def __add__(self, other: Work) -> Work:
        return Work(self.text + other.text, self.vision + other.vision)

    @property
    def both(self) -> Passes:
        """Of the whole network."""
        return self.text + self.vision

    @property
    def read(self) -> Work:
        """The same without a gradient: the forward pass alone."""
        return Work(Passes(self.text.forward), Passes(self.vision.forward))


@dataclass(frozen=True, slots=True)
class Rates:
    """Operations of one model for each unit that its inputs are counted in.

    A pair is a query and a key that meet in attention. `window` is the side of an attention window in visual tokens,
    0 where every block of the tower attends to the whole image; `merge` the patches along each side of a visual token.
    """

    token: Passes
    pair: Passes
    target: Passes
    patch: Passes
    patch_pair: Passes
    window_pair: Passes
    visual_token: Passes
    vocabulary: int
    window: int
    merge: int


def operations(rates: Rates, lengths: Sequence[int], targets: int, grids: Sequence[Grid]) -> Work:
    """Of one forward pass and its backward pass.

    Args:
        rates: of the model.
        lengths: tokens of each sequence, placeholders of images included.
        targets: trained ids of all sequences.
        grids: (t, h, w) in patches of every image that the vision tower runs over, each once.
    """
    chunked = targets * rates.vocabulary > CHUNK_LOGITS
    head = rates.target if chunked else Passes(rates.target.forward, rates.target.backward)
    pairs = sum(length**2 for length in lengths)
    patches = sum(t * h * w for t, h, w in grids)
    whole = sum(t * (h * w) ** 2 for t, h, w in grids)
    windows = sum(t * _window_pairs(h, rates) * _window_pairs(w, rates) for t, h, w in grids)
    return Work(
        text=rates.token.times(sum(lengths)) + rates.pair.times(pairs) + head.times(targets),
        vision=rates.patch.times(patches)
        + rates.patch_pair.times(whole)
        + rates.window_pair.times(windows)
        + rates.visual_token.times(patches / rates.merge**2),
    )


def _window_pairs(side: int, rates: Rates) -> int:
    """Pairs of patches along one side of an image that share a window, the last and shorter one included."""
    window = rates.window * rates.merge
    if not window:
        return 0
    whole, rest = divmod(side, window)
    return whole * window**2 + rest**2


def rates_of(model: Model) -> Rates:
    """Reads the rates off the model that `model` describes, built without weights."""
    network = load(model.model_copy(update={"attention": "varlen"}), sharded=True).model  # the same for every attention
    return network_rates(network, checkpointing=model.gradient_checkpointing)


def network_rates(network: Any, *, checkpointing: bool) -> Rates:
    """The same of a network from policy.network.load.load, with adapters or without."""
    base, tower = base_model(network), vision_tower(network)
    embed = tower.patch_embed.proj.weight  # [hidden, 3, T, P, P]; the tower gets one frame
    trained: bool = embed.requires_grad
    patch_values = embed[0, :, 0].numel() * embed.shape[0]
    patch, flows = Passes(2 * patch_values, 2 * patch_values * trained), trained
    windowed: set[int] = set()
    if hasattr(tower, "fullatt_block_indexes"):
        windowed = set(range(len(tower.blocks))) - set(tower.fullatt_block_indexes)
    patch_pair, window_pair = Passes(), Passes()
    for number, module in enumerate(tower.blocks):
        each, pair, flows = _block(module.attn, module.mlp, flows, checkpointing)
        patch += each
        if number in windowed:
            window_pair += pair
        else:
            patch_pair += pair
    merged, flows = _stages(_mergers(tower), flows)
    token, pair, flows = _layers(base, flows or base.get_input_embeddings().weight.requires_grad, checkpointing)
    head, _ = _stages([_linears(base.lm_head)], flows)
    return Rates(
        token=token,
        pair=pair,
        target=Passes(head.forward, head.backward, head.forward),
        patch=patch,
        patch_pair=patch_pair,
        window_pair=window_pair,
        visual_token=merged,
        vocabulary=base.config.text_config.vocab_size,
        window=tower.window_size // tower.spatial_merge_size // tower.patch_size if windowed else 0,
        merge=tower.spatial_merge_size,
    )


@dataclass(frozen=True, slots=True)
class _Linear:
    """A linear layer: its sizes, whether its weight is trained, and the rank of the adapter beside it, 0 without."""

    inner: int
    outer: int
    trained: bool
    rank: int

    @property
    def learns(self) -> bool:
        return self.trained or self.rank > 0

    def passes(self, flows: bool) -> Passes:
        """For one row of its input, to which a gradient flows or not."""
        weights, lower, upper = self.inner * self.outer, self.inner * self.rank, self.rank * self.outer
        return Passes(
            2 * (weights + lower + upper),
            2 * (weights * (flows + self.trained) + lower * (flows + 1) + upper * 2),
        )

    @property
    def last(self) -> int:
        """Operations of the product that is computed last: nobody keeps its output to go back through it."""
        return 2 * (self.rank or self.inner) * self.outer


def _linears(module: nn.Module) -> list[_Linear]:
    """The linear layers in a module in the order that they are used, with the adapters of peft beside them."""
    return list(_found(module))


def _found(module: Any) -> Iterator[_Linear]:
    if hasattr(module, "base_layer"):
        base, lower = module.base_layer, module.lora_A["default"]
        yield _Linear(base.in_features, base.out_features, base.weight.requires_grad, lower.out_features)
    elif isinstance(module, nn.Linear):
        yield _Linear(module.in_features, module.out_features, module.weight.requires_grad, 0)
    else:
        for child in module.children():
            yield from _found(child)


def _stages(stages: Sequence[Sequence[_Linear]], flows: bool) -> tuple[Passes, bool]:
    """Of layers one after the other, those of a stage side by side; and whether what they return needs a gradient."""
    total = Passes()
    for stage in stages:
        for linear in stage:
            total += linear.passes(flows)
        flows = flows or any(linear.learns for linear in stage)
    return total, flows


def _block(attention: nn.Module, mlp: nn.Module, flows: bool, checkpointing: bool) -> tuple[Passes, Passes, bool]:
    """Of a block: for each row and for each pair; and whether what it returns needs a gradient."""
    (*queries, out), (*up, down) = _linears(attention), _linears(mlp)
    before, meets = _stages([queries], flows)
    after, returned = _stages([[out], up, [down]], flows or meets)
    each = before + after
    again = checkpointing and returned
    products = 4 * out.inner  # query x key, then weight x value
    return (
        Passes(each.forward, each.backward, (each.forward - down.last) * again),
        Passes(products, 2 * products * meets, products * again),
        returned,
    )


def _layers(base: Any, flows: bool, checkpointing: bool) -> tuple[Passes, Passes, bool]:
    """Of the language model: for each token and for each pair; and whether its hidden states need a gradient."""
    token, pair = Passes(), Passes()
    for layer in base.model.language_model.layers:
        each, both, flows = _block(layer.self_attn, layer.mlp, flows, checkpointing)
        token, pair = token + each, pair + both
    return token, pair, flows


def _mergers(tower: Any) -> list[list[_Linear]]:
    """Of every merger the layers; those of a deep stack get the output of an earlier block."""
    mergers: list[Any] = [tower.merger]
    if hasattr(tower, "deepstack_merger_list"):
        mergers += tower.deepstack_merger_list
    return [list(side) for side in zip(*map(_linears, mergers), strict=True)]
