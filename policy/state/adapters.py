"""Adapters on the way from the learner to whoever needs whole weights.

    learner --"w:lora_A", "w:lora_B", "w:lora_scale"--> merge_adapters  (export: the base is there too)
                                                   '--> KeptBase.merged (engines: the base stays in its file)

An adapter travels by the name of the weight it changes and a suffix; the frozen weights do not travel at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from policy.network.load import load
from policy.network.load_sharded import StoredWeights
from schemas.config import Model

Array = npt.NDArray[np.floating[Any]]

# ":" occurs in no parameter's name.
LORA_A, LORA_B, LORA_SCALE = ":lora_A", ":lora_B", ":lora_scale"


def merge_adapters(weights: Mapping[str, Array]) -> dict[str, Array]:
    """W + scale x B A for every weight that has adapters beside it; the other weights as they are.

    >>> w = {"w": np.eye(2), "w:lora_A": np.ones((1, 2)), "w:lora_B": np.ones((2, 1)), "w:lora_scale": np.array(2.0)}
    >>> merge_adapters(w)["w"].tolist()
    [[3.0, 2.0], [2.0, 3.0]]
    """
    merged = {name: value for name, value in weights.items() if ":" not in name}
    for name in weights:
        if name.endswith(LORA_A):
            target = name.removesuffix(LORA_A)
            change = weights[target + LORA_B] @ weights[name]
            merged[target] = merged[target] + weights[target + LORA_SCALE] * change
    return merged


class KeptBase:
    """The frozen weights under adapters, as the learner computes with them: those of the checkpoint, in `model.dtype`.

    They are read from the file anew for each merge, so that its bits do not depend on the merges before; its pages are
    the machine's cache, which all engines of the machine share.
    """

    def __init__(self, model: Model) -> None:
        """Opens the checkpoint. Raises FileNotFoundError where it has no safetensors files."""
        plain = model.model_copy(update={"lora": None, "attention": "varlen"})  # only names are taken off it
        self._stored = StoredWeights(model.path, load(plain, trainable=False, sharded=True).model)
        self._dtype: torch.dtype = getattr(torch, model.dtype)

    def check(self, adapters: Iterable[str]) -> None:
        """Raises ValueError where an adapter, by its name, belongs to no weight of the checkpoint."""
        self._stored.refuse_unknown(_targets(adapters))

    def merged(self, adapters: Mapping[str, Tensor], dtype: torch.dtype, device: str) -> Iterator[tuple[str, Tensor]]:
        """Every weight of the checkpoint by its Hugging Face name, changed by its adapters if it has any.

        Args:
            adapters: A [rank, in], B [out, rank] and the scale of each adapted weight [out, in], float32.
            dtype: of the result; the sum is rounded to it once, from float32.
            device: where the sum is computed.
        """
        targets = _targets(adapters)
        for name in self._stored.names:
            with torch.device("cpu"):  # whoever loads may have made "meta" the default
                weight = self._stored.whole(name).to(self._dtype)
                if name in targets:
                    down, up, scale = (adapters[name + part].to(device) for part in (LORA_A, LORA_B, LORA_SCALE))
                    weight = weight.to(device, torch.float32) + scale * (up @ down)
            yield name, weight.to(dtype)


def _targets(adapters: Iterable[str]) -> set[str]:
    """The weights that adapters change."""
    return {name.removesuffix(LORA_A) for name in adapters if name.endswith(LORA_A)}
