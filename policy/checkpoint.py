"""Checkpoints of the learner, and the export as a Hugging Face folder.

    step-000050.partial/  state/ (sharded weights and optimiser)  rng-00000.pt ...  complete.json
          `-- renamed to step-000050/ when every rank has written

`complete.json` is written last, so a folder that has it is whole. It also holds the extra state given to the save.
Weights that are not trained are not written: they are those of the checkpoint that training started from. A checkpoint
can be loaded at another number of ranks.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from policy.forward import Backbone, PolicyModule
from policy.model import base_model
from policy.sharding import full_weights, rank
from schemas.config import Model

COMPLETE = "complete.json"
_TRAINED_ONLY = StateDictOptions(ignore_frozen_params=True, strict=False)


class CheckpointError(RuntimeError):
    """A checkpoint is missing or not complete."""


def save(
    folder: str | Path,
    network: Backbone,
    optimiser: torch.optim.Optimizer,
    counters: dict[str, Any],
    extra: dict[str, Any],
) -> None:
    """Writes trained weights, optimiser, random state, `counters` and `extra` (JSON), beside, then renames.

    Every rank must call it; the folder must be on a file system that all ranks see. An older checkpoint of the same
    name is replaced only when the new one is complete.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    if rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    _barrier()
    weights, state = get_state_dict(network, optimiser, options=_TRAINED_ONLY)
    with _quiet():
        state_dict_saver.save(
            {"weights": weights, "optimiser": state}, checkpoint_id=partial / "state", no_dist=not dist.is_initialized()
        )
    with (partial / f"rng-{rank():05d}.pt").open("wb") as stream:
        torch.save(_random_state(), stream)
        _flush(stream)
    _barrier()
    if rank() == 0:
        _write(partial / COMPLETE, {"counters": counters, "extra": extra})
        _replace(folder, partial)
    _barrier()


def load(folder: str | Path, network: Backbone, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Restores weights, optimiser and random state in place; returns the counters. Every rank must call it.

    Raises CheckpointError if the folder holds no complete checkpoint.
    """
    folder = Path(folder)
    counters = _read(folder)["counters"]
    weights, state = get_state_dict(network, optimiser, options=_TRAINED_ONLY)
    stored: dict[str, Any] = {"weights": weights, "optimiser": state}
    with _quiet():
        state_dict_loader.load(stored, checkpoint_id=folder / "state", no_dist=not dist.is_initialized())
    set_state_dict(
        network,
        optimiser,
        model_state_dict=stored["weights"],
        optim_state_dict=stored["optimiser"],
        options=_TRAINED_ONLY,
    )
    random_state = folder / f"rng-{rank():05d}.pt"
    if random_state.is_file():  # absent for ranks that the run did not have when it was saved
        _set_random_state(torch.load(random_state, weights_only=True))
    return counters


def is_complete(folder: str | Path) -> bool:
    """Whether the folder holds a checkpoint that was written to its end."""
    return (Path(folder) / COMPLETE).is_file()


def read_extra(folder: str | Path) -> dict[str, Any]:
    """The extra state that was saved with a checkpoint. Raises CheckpointError if it is not complete."""
    return _read(Path(folder))["extra"]


def export(folder: str | Path, policy: PolicyModule, config: Model) -> None:
    """Writes weights (in `config.dtype`, adapters merged), configuration, tokenizer and processor.

    The result loads like the checkpoint that training started from. Every rank must call it; rank 0 writes, beside,
    then renames.
    """
    weights = full_weights(policy)
    if rank() == 0:
        folder = Path(folder)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        dtype = getattr(torch, config.dtype)
        if base_model(policy.model).config.tie_word_embeddings:
            del weights["lm_head.weight"]  # the embedding again
        base_model(policy.model).save_pretrained(
            partial, state_dict={name: torch.from_numpy(value).to(dtype) for name, value in weights.items()}
        )
        _write(partial / "config.json", _with_dtype(json.loads((partial / "config.json").read_text()), config.dtype))
        for file in Path(config.path).iterdir():
            if file.is_file() and not (partial / file.name).exists() and not _holds_weights(file):
                shutil.copy2(file, partial)
        _replace(folder, partial)
    _barrier()


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The configuration with the type that the weights were written in, in place of the trained float32."""
    sections = {k: _with_dtype(v, dtype) if isinstance(v, dict) else v for k, v in config.items()}
    return sections | {"dtype": dtype} if "dtype" in config else sections


def halve(source: str | Path, out: str | Path) -> None:
    """Copies a Hugging Face checkpoint of one safetensors file with its weights in float16: half the size to ship.

    Loading it in float32 gives the rounded weights. Raises CheckpointError where there is no such file.
    """
    source, out = Path(source), Path(out)
    weights = source / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"{source}: no model.safetensors; give the folder of a checkpoint with one weight file")
    out.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and not _holds_weights(file):
            shutil.copy2(file, out)
    small = {name: tensor.to(torch.float16).contiguous() for name, tensor in load_file(weights).items()}
    save_file(small, out / "model.safetensors", metadata={"format": "pt"})


def _holds_weights(file: Path) -> bool:
    return file.suffix in (".safetensors", ".bin", ".pt", ".pth") or file.name.endswith(".index.json")


def _read(folder: Path) -> dict[str, Any]:
    if not is_complete(folder):
        state = "was not written to its end" if folder.is_dir() else "does not exist"
        raise CheckpointError(f"{folder}: no checkpoint ({COMPLETE} is missing: the folder {state}); choose another")
    return json.loads((folder / COMPLETE).read_text(encoding="utf-8"))


def _replace(folder: Path, partial: Path) -> None:
    """Renames `partial` to `folder`; what was there is deleted afterwards."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    _flush_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def _quiet() -> Generator[None]:
    """A process without a group saves and loads alone, as it should; torch warns of it each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _write(file: Path, content: dict[str, Any]) -> None:
    """Writes JSON beside, then renames, so that a file of this name is whole."""
    beside = file.with_name(file.name + ".partial")
    with beside.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2)
        _flush(stream)
    beside.replace(file)
    _flush_folder(file.parent)


def _flush(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
