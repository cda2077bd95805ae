"""The weights of a checkpoint folder, read by one rank and sent to the others in blocks of rows.

    rank 0: safetensors --block of rows--> broadcast --> every rank keeps the rows of its own shards

A sharded policy is built without weights, on the meta device. No process ever holds more of them than its shards and
one block. Adapters are not read: every rank draws the same ones.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

BLOCK_BYTES = 1 << 26  # of a broadcast: 64 MiB


class StoredWeights:
    """The safetensors files of a folder, by the names that the network gives its weights. Opening reads headers only.

    Raises FileNotFoundError where the folder has no such files.
    """

    def __init__(self, folder: str | Path, network: Any) -> None:
        """`network` is a transformers model, which knows how checkpoints of its family name what it holds."""
        self._folder = Path(folder)
        index = self._folder / "model.safetensors.index.json"
        single = self._folder / "model.safetensors"
        if index.is_file():
            files: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        elif single.is_file():
            with safe_open(single, "pt") as opened:
                files = dict.fromkeys(opened.keys(), single.name)
        else:
            raise FileNotFoundError(
                f"{self._folder}: neither {single.name} nor {index.name}; convert the checkpoint to safetensors "
                "(save_pretrained of transformers writes them)"
            )
        self._opened: dict[str, Any] = {name: safe_open(self._folder / name, "pt") for name in set(files.values())}
        self._source = {name: (key, files[key]) for key, name in _network_names(list(files), network).items()}

    def check(self, name: str, shape: torch.Size) -> None:
        """Raises ValueError unless the weight is there in this shape."""
        if name not in self._source:
            raise ValueError(
                f"{self._folder}: no weight {name}; the files are incomplete, or of another model than config.json"
            )
        stored = tuple(self._slice(name).get_shape())
        if stored != tuple(shape):
            raise ValueError(f"{self._folder}: weight {name} is {stored}, config.json makes it {tuple(shape)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Every weight, in the order of its file. Of two that are tied, the one that was written."""
        return tuple(self._source)

    def refuse_unknown(self, names: Iterable[str]) -> None:
        """Raises ValueError naming the first weights that the files do not hold."""
        unknown = sorted(set(names) - self._source.keys())
        if unknown:
            raise ValueError(f"{self._folder}: no weight {', '.join(unknown[:3])}; adapters of another model came")

    def whole(self, name: str) -> Tensor:
        """A weight, in the type of the file."""
        return self._slice(name)[:]

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows first .. last - 1 of a weight, in the type of the file."""
        return self._slice(name)[first:last]

    def _slice(self, name: str) -> Any:
        key, file = self._source[name]
        return self._opened[file].get_slice(key)


def fill(sharded: nn.Module, folder: str | Path, seed: int, device: str) -> None:
    """Gives the model in a sharded module, built on the meta device, the weights of a folder. Every rank must call it.

    Args:
        sharded: its `model` is a transformers model, with or without adapters; its other parameters are left alone.
        folder: of the checkpoint.
        seed: of the adapters.
        device: where the shards are kept.

    Raises FileNotFoundError or ValueError, on every rank, where the folder does not hold the model.
    """
    network: Any = sharded.model
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    stored = StoredWeights(folder, base)
    for name, weight in network.named_parameters():
        if not is_adapter(name):
            stored.check(hf_name(name), weight.shape)

    # Not to_empty, which would empty the buffers too: they are no weights, and were computed when the model was built.
    def real(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor

    sharded._apply(real)  # pyright: ignore[reportPrivateUsage] (what to() and to_empty() are made of)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if is_adapter(name):
                _keep(weight, 0, initial_adapter(name, weight.shape, seed))
            else:
                _receive(weight, hf_name(name), stored)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return ".lora_A." in name or ".lora_B." in name


def initial_adapter(name: str, shape: torch.Size, seed: int) -> Tensor:
    """What an adapter starts from: A uniform by fan-in, B zero, so that it changes nothing (LoRA, arXiv 2106.09685).

    A function of name and seed alone: every rank, and every start, draws the same.
    """
    values = torch.zeros(shape)
    if ".lora_A." in name:
        draw = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        nn.init.kaiming_uniform_(values, a=5**0.5, generator=draw)
    return values


def hf_name(name: str) -> str:
    """A parameter's name under adapters -> the one that transformers gives it without them.

    >>> hf_name("base_model.model.model.layers.0.q_proj.base_layer.weight")
    'model.layers.0.q_proj.weight'
    """
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _network_names(keys: list[str], network: Any) -> dict[str, str]:
    """The network's name of every key of a checkpoint, whichever of the family's layouts its files have."""
    state = network.state_dict()
    mapping = get_model_conversion_mapping(network)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    names: dict[str, str] = {}
    for key in keys:
        name, converter = rename_source_key(key, renamings, converters, network.base_model_prefix, state)
        if converter is not None:
            raise ValueError(
                f"weight {key} has to be converted, not only renamed; save the model once with transformers"
            )
        names[key] = name if name in state or key not in state else key
    return names


def _receive(weight: Tensor, name: str, stored: StoredWeights) -> None:
    """Fills a weight from rank 0's file, block by block. Blocks travel between the devices that compute."""
    device = weight.device_mesh.device_type if isinstance(weight, DTensor) else weight.device
    total = weight.shape[0]
    row_bytes = math.prod(weight.shape[1:]) * weight.element_size()  # not off weight[0]: that gathers the whole weight
    rows = max(1, BLOCK_BYTES // max(1, row_bytes))
    for first in range(0, total, rows):
        last = min(total, first + rows)
        if dist.get_rank() == 0:
            block = stored.rows(name, first, last).to(device, weight.dtype)
        else:
            block = torch.empty(last - first, *weight.shape[1:], dtype=weight.dtype, device=device)
        dist.broadcast(block, 0)
        _keep(weight, first, block)


def _keep(weight: Tensor, first: int, block: Tensor) -> None:
    """Copies those rows of a block, which starts at row `first` of the whole weight, that are in this rank's shard."""
    local, start = weight, 0
    if isinstance(weight, DTensor):
        local = weight.to_local()
        [dim] = [dim for dim, placement in enumerate(weight.placements) if isinstance(placement, Shard)]
        coordinate = weight.device_mesh.get_coordinate()
        assert coordinate is not None
        start = coordinate[dim] * -(-weight.shape[0] // weight.device_mesh.size(dim))
    begin, end = max(first, start), min(first + len(block), start + len(local))
    if begin < end:
        local[begin - start : end - start].copy_(block[begin - first : end - first])
