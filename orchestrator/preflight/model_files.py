"""Whether a model folder is whole, from the heads of its files: no weight is read.

config.json -> family      weight files -> every tensor lies within its file      tokenizer -> chat template
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from orchestrator.preflight.problem import Problem
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import ModelInfo, model_tokenizer, read_info
from policy.network.vision import read_image_stats
from schemas.config import Model

FIELD = "model.path"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the checks that follow need: the family, and how many numbers the weights are.

    `parameters` counts a tied output layer once, as the files do.
    """

    info: ModelInfo
    parameters: int


def check_model(model: Model, problems: list[Problem]) -> ModelFacts | None:
    """Adds what is wrong with the model's files; None where they do not say what the model is."""

    def wrong(detail: str) -> None:
        problems.append(Problem(FIELD, model.path, detail))

    try:
        info = read_info(model.path)
    except (OSError, ValueError, KeyError) as error:
        return wrong(_plain(error))
    parameters = 0
    try:
        parameters = sum(math.prod(shape) for shape in _weights(Path(model.path)))
    except ValueError as error:
        wrong(str(error))
    try:
        read_image_stats(model.path)
    except ValueError as error:
        wrong(str(error))
    try:
        tokenizer = model_tokenizer(model)
    except Exception as error:
        wrong(f"the tokenizer cannot be read ({_plain(error)}); copy tokenizer.json and tokenizer_config.json")
        return ModelFacts(info, parameters)
    if not tokenizer.chat_template:
        wrong("the tokenizer has no chat template; copy chat_template.jinja or tokenizer_config.json of the original")
    else:
        try:
            ChatFormat(tokenizer).prompt_ids("Where?", 1)
        except Exception as error:
            wrong(f"the chat template does not write a prompt with an image: {_plain(error)}")
    return ModelFacts(info, parameters)


def _weights(folder: Path) -> Iterator[tuple[int, ...]]:
    """The shape of every tensor. Raises ValueError naming the file that is missing, cut or not indexed."""
    index = folder / INDEX
    if index.is_file():
        try:
            placed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{INDEX} cannot be read ({error!r}); download it again") from None
        for name in sorted(set(placed.values())):
            expected = {tensor for tensor, file in placed.items() if file == name}
            found = _header(folder / name)
            lacking = sorted(expected - found.keys())
            if lacking:
                raise ValueError(f"{name} lacks {lacking[0]} and {len(lacking) - 1} more that {INDEX} places in it")
            yield from found.values()
        return
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError("no *.safetensors files; convert the weights, or finish the download")
    for file in files:
        yield from _header(file).values()


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file: 8 bytes of length, so many of JSON, then the data."""
    if not file.is_file():
        raise ValueError(f"{file.name} is missing; finish the download")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise ValueError(f"{file.name} is cut off ({size} bytes); download it again")
        try:
            header = cast("dict[str, Any]", json.loads(stream.read(length)))
        except ValueError:
            raise ValueError(f"{file.name} is not a safetensors file; download it again") from None
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end > size:
        raise ValueError(f"{file.name} is cut off ({size} of {8 + length + end} bytes); download it again")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _plain(error: BaseException) -> str:
    """An error's first line, without the field that it may name itself."""
    text = str(error).split("\n", 1)[0]
    return text.split(": ", 1)[1] if text.startswith(f"{FIELD}=") and ": " in text else text
