"""JSON Schema of the configuration files, for editors: names, types, defaults and what each field is.

What a field is stands as a comment behind it in the code; it becomes the field's description. Rules between fields are
no part of a schema: `pointvg check` has them.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from schemas.config.pointer import PointerConfig
from schemas.config.service import ServiceConfig
from schemas.config.sft import SftConfig
from schemas.config.tiny import TinyConfig
from schemas.config.train import TrainConfig

KINDS: Mapping[str, type[BaseModel]] = {
    "train": TrainConfig,
    "sft": SftConfig,
    "tiny": TinyConfig,
    "reward": ServiceConfig,
    "pointer": PointerConfig,
}
_COMMENTED = re.compile(r"^    (\w+): [^#\n]*  # (\S.*)$", re.MULTILINE)


def json_schema(kind: str) -> str:
    """The schema of one kind of file as JSON, ready to write. `kind` is a name of KINDS."""
    model = KINDS[kind]
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    named = {section.__name__: section for section in _sections(model)}
    for name, described in ((model.__name__, schema), *schema.get("$defs", {}).items()):
        if name in named:
            _describe(described, named[name])
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and those of its fields, however deep; one may come twice."""
    yield model
    waiting: list[Any] = [field.annotation for field in model.model_fields.values()]
    while waiting:
        each = waiting.pop()
        if isinstance(each, type) and issubclass(each, BaseModel):
            yield from _sections(each)
        waiting += get_args(each)


def _describe(schema: dict[str, Any], section: type[BaseModel]) -> None:
    """Gives fields the comments behind them, those of a section's base classes too."""
    for kind in section.__mro__:
        if kind is not BaseModel and issubclass(kind, BaseModel):
            for name, words in _COMMENTED.findall(inspect.getsource(kind)):
                schema.get("properties", {}).get(name, {}).setdefault("description", words)
