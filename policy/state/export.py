"""The trained model as a Hugging Face folder, and a copy of one in half the size."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from files.crash_safe import replace_folder, write_json, write_text
from files.owned import LIST, writing_folder
from policy.network.forward import PolicyModule
from policy.network.load import base_model
from policy.state.sharding import full_weights, rank
from schemas.config import Model

OF_ANOTHER = ("README.md", "point.py", "pointing.json", LIST)  # what release.py adds is of one training each


def export(folder: str | Path, policy: PolicyModule, config: Model, template: str | None) -> None:
    """Writes weights (in `config.dtype`, adapters merged), configuration, tokenizer and processor.

    The result loads like the checkpoint that training started from, with the chat template that the run used in its
    place where that is another (`template`). Every rank must call it; rank 0 writes, beside, then renames.
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
        write_json(
            partial / "config.json", _with_dtype(json.loads((partial / "config.json").read_text()), config.dtype)
        )
        for file in Path(config.path).iterdir():
            taken = (partial / file.name).exists() or file.name in OF_ANOTHER
            if file.is_file() and not taken and not _holds_weights(file):
                shutil.copyfile(file, partial / file.name)
        if template is not None:
            write_text(partial / "chat_template.jinja", template)
            (partial / "chat_template.json").unlink(missing_ok=True)  # the same in an older form
        mode = stat.S_IMODE((partial / "config.json").stat().st_mode)
        for file in partial.iterdir():
            file.chmod(mode)  # safetensors writes for its owner alone
        replace_folder(folder, partial)
    if dist.is_initialized():
        dist.barrier()


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The configuration with the type that the weights were written in, in place of the trained float32."""
    sections = {k: _with_dtype(v, dtype) if isinstance(v, dict) else v for k, v in config.items()}
    return sections | {"dtype": dtype} if "dtype" in config else sections


def halve(source: str | Path, out: str | Path, *, overwrite: bool = False) -> None:
    """Copies a Hugging Face checkpoint of one safetensors file with its weights in float16: half the size to ship.

    Loading it in float32 gives the rounded weights. Raises FileNotFoundError where there is no such file.
    """
    source, out = Path(source), Path(out)
    weights = source / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{source}: no model.safetensors; give the folder of a checkpoint with one weight file")
    with writing_folder(out, "pointvg halve", overwrite=overwrite) as fresh:
        for file in source.iterdir():
            if file.is_file() and not _holds_weights(file) and file.name != LIST:
                shutil.copyfile(file, fresh / file.name)
        small = {name: tensor.to(torch.float16).contiguous() for name, tensor in load_file(weights).items()}
        save_file(small, fresh / "model.safetensors", metadata={"format": "pt"})


def _holds_weights(file: Path) -> bool:
    return file.suffix in (".safetensors", ".bin", ".pt", ".pth") or file.name.endswith(".index.json")
