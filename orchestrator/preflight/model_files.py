"""Whether a model folder is whole, from the heads of its files: no weight is read.

config.json -> family      weight files -> every tensor lies within its file      tokenizer -> chat template
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from orchestrator.preflight.problem import Problem
from policy.conversation.chat_format import ChatFormat, ChatFormatError
from policy.conversation.model_info import ModelInfo, model_tokenizer, read_info
from policy.network.load import refuse_attention
from policy.network.vision import read_image_stats
from schemas.config import Model
from schemas.config.file import SettingError

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class ModelFindings:
    """What is wrong with a model's files, and what they say of it: `info` is None where they do not say what it is.

    `speaks` is whether prompts can be written with its tokenizer and chat template.
    """

    problems: tuple[Problem, ...]
    info: ModelInfo | None
    speaks: bool

    @property
    def loads(self) -> bool:
        """Whether a model can be built from the folder."""
        return self.speaks and not any(problem.field == "model.path" for problem in self.problems)


class _FileError(ValueError):
    """A weight file that cannot be used: the reason, and what to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


def check_model(model: Model) -> ModelFindings:
    """Looks at every file that a run reads of a model, and at settings that have to fit them."""
    try:
        info = read_info(model.path)
    except SettingError as error:
        return ModelFindings((Problem.of(error),), None, speaks=False)
    speech = _speech(model)
    problems = (*_weight_problems(model), *_processor_problems(model), *speech, *_attention_problems(model))
    return ModelFindings(problems, info, speaks=not speech)


def _attention_problems(model: Model) -> Iterator[Problem]:
    try:
        refuse_attention(model)
    except SettingError as error:
        yield Problem.of(error)


def _processor_problems(model: Model) -> Iterator[Problem]:
    try:
        read_image_stats(model.path)
    except SettingError as error:
        yield Problem.of(error)


def _weight_problems(model: Model) -> Iterator[Problem]:
    try:
        _look_through_weights(Path(model.path))
    except _FileError as error:
        yield Problem("model.path", model.path, error.reason, error.remedy)


def _speech(model: Model) -> tuple[Problem, ...]:
    """What keeps prompts from being written: tokenizer and chat template are tried on one."""
    try:
        tokenizer = model_tokenizer(model)
    except SettingError as error:
        return (Problem.of(error),)
    except Exception as error:  # whatever a tokenizer's own code raises
        reason = f"the tokenizer cannot be read ({_first_line(error)})"
        return (Problem("model.path", model.path, reason, "copy tokenizer.json and tokenizer_config.json"),)
    field, value = ("model.path", model.path)
    if model.chat_template is not None:
        field, value = "model.chat_template", model.chat_template
    if not tokenizer.chat_template:
        copy = "copy chat_template.jinja or tokenizer_config.json of the original"
        return (Problem(field, value, "the tokenizer has no chat template", copy),)
    try:
        ChatFormat(tokenizer).prompt_ids("Where?", 1)
    except ChatFormatError as error:
        return (Problem(field, value, error.reason, error.remedy),)
    except Exception as error:  # a template is a program of its own
        reason = f"the chat template does not write a prompt with an image ({_first_line(error)})"
        return (Problem(field, value, reason, "use the template of a Qwen vision-language model"),)
    return ()


def _look_through_weights(folder: Path) -> None:
    """Raises _FileError naming the file that is missing, cut or not indexed."""
    index = folder / INDEX
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise _FileError("no *.safetensors files there", "convert the weights, or finish the download")
        for file in files:
            _tensors(file)
        return
    try:
        placed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise _FileError(f"{INDEX} cannot be read ({error!r})", "download it again") from None
    for name in sorted(set(placed.values())):
        expected = {tensor for tensor, file in placed.items() if file == name}
        lacking = sorted(expected - _tensors(folder / name))
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise _FileError(f"{name} lacks {lacking[0]}{more}, which {INDEX} places in it", "download both again")


def _tensors(file: Path) -> set[str]:
    """Names in a safetensors file: 8 bytes of length, so many of JSON, then the data, which has to be all there."""
    if not file.is_file():
        raise _FileError(f"{file.name} is missing", "finish the download")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise _FileError(f"{file.name} is cut off ({size} bytes)", "download it again")
        try:
            header = cast("dict[str, Any]", json.loads(stream.read(length)))
        except ValueError:
            raise _FileError(f"{file.name} is not a safetensors file", "download it again") from None
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end > size:
        raise _FileError(f"{file.name} is cut off ({size} of {8 + length + end} bytes)", "download it again")
    return set(header)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
