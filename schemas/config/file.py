"""Reads a YAML configuration with dotted overrides, keeping where each value came from.

    values, origins = merge(file, overrides)   ->   parse(TrainConfig, file, overrides)

Errors name the file and line (or "command line"), the field, the value and what to do.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)
# What YAML calls the types that pydantic names in Python's words.
_EXPECTED = {
    "tuple_type": "expected a list",
    "string_type": "expected a text",
    "model_type": "expected a section of fields",
    "bool_type": "expected true or false",
}
Origins = Mapping[tuple[str, ...], str]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message lists every problem."""


class SettingError(ConfigError):
    """One setting that cannot be used, in parts: nobody has to read them back from the message.

    >>> print(SettingError("model.path", "m", "no config.json there", "give the folder of a checkpoint"))
    model.path='m': no config.json there; give the folder of a checkpoint
    """

    def __init__(self, field: str, value: Any, reason: str, remedy: str) -> None:
        super().__init__(f"{field}={value!r}: {reason}; {remedy}")
        self.field, self.value, self.reason, self.remedy = field, value, reason, remedy

    def __reduce__(self) -> tuple[type[SettingError], tuple[str, Any, str, str]]:
        """Its parts: it crosses processes whole."""
        return type(self), (self.field, self.value, self.reason, self.remedy)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """A validated configuration and the origin ("file:line" or "command line") of every value that was set."""

    config: T
    origins: Origins


def load(model: type[T], path: str | Path, overrides: Sequence[str] = ()) -> Loaded[T]:
    """Reads `path`, applies overrides such as "trainer.max_steps=3" in order, and validates against `model`.

    Override values are YAML: `a=1` is a number, `a='1'` a string, `a=[1, 2]` a list, `a=null` nothing.
    Raises ConfigError with one line per problem.
    """
    values, origins = merge(path, overrides)
    try:
        return Loaded(model.model_validate(values), origins)
    except ValidationError as error:
        raise ConfigError(_describe(error, model, origins, str(path))) from None


def merge(path: str | Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Origins]:
    """The file's values with the overrides applied, not validated, and the origin of each. Raises ConfigError."""
    values, origins = _read(Path(path))
    for override in overrides:
        _apply(override, values, origins)
    return values, origins


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check --config") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: expected a mapping of sections such as model:, data:")
    origins: dict[tuple[str, ...], str] = {}
    _record_origins(node, (), path, origins)
    return yaml.safe_load(text), origins


def _record_origins(
    node: yaml.MappingNode, at: tuple[str, ...], path: Path, origins: dict[tuple[str, ...], str]
) -> None:
    for key, value in node.value:
        where = (*at, str(key.value))
        if where in origins:
            raise ConfigError(f"{path}:{key.start_mark.line + 1}: {'.'.join(where)} is set twice; keep one")
        origins[where] = f"{path}:{key.start_mark.line + 1}"
        if isinstance(value, yaml.MappingNode):
            _record_origins(value, where, path, origins)


def _apply(override: str, values: dict[str, Any], origins: dict[tuple[str, ...], str]) -> None:
    dotted, separator, text = override.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not separator or not all(keys):
        raise ConfigError(f"command line: {override!r} is not an override; write section.field=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"command line: {dotted}: value {text!r} is not valid YAML; quote it") from None
    section: dict[str, Any] = values
    for depth, key in enumerate(keys[:-1]):
        child = section.get(key)
        if child is None:
            child = section[key] = {}
            origins[keys[: depth + 1]] = "command line"
        if not isinstance(child, dict):
            raise ConfigError(f"command line: {'.'.join(keys[: depth + 1])} is {child!r}, not a section with fields")
        section = child
    section[keys[-1]] = value
    for where in [where for where in origins if where[: len(keys)] == keys]:
        del origins[where]  # what the file said there is replaced
    origins.update(dict.fromkeys(_all_under(keys, value), "command line"))


def _all_under(at: tuple[str, ...], value: Any) -> Iterator[tuple[str, ...]]:
    yield at
    if isinstance(value, dict):
        for key, inside in cast("dict[Any, Any]", value).items():
            yield from _all_under((*at, str(key)), inside)


def _describe(error: ValidationError, model: type[BaseModel], origins: Origins, path: str) -> str:
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        location = tuple(str(part) for part in problem["loc"])
        origin = next((origins[location[:n]] for n in range(len(location), 0, -1) if location[:n] in origins), path)
        if problem["type"] == "string_type" and location[-1] == "str":  # the other form of a list of files
            continue
        field = ".".join(part for part in location if not part.startswith("tuple[")) or "configuration"
        if problem["type"] == "extra_forbidden":
            known = _fields_at(model, location[:-1])
            close = difflib.get_close_matches(location[-1], known, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(known)}"
            lines.append(f"{origin}: {field}: unknown field; {remedy}")
        elif problem["type"] == "missing":
            lines.append(f"{origin}: {field}: required and not set; add it")
        else:
            message = _EXPECTED.get(problem["type"], problem["msg"].removeprefix("Value error, "))
            given = problem["input"]
            shown = "" if isinstance(given, dict | BaseModel) else f" (got {'null' if given is None else repr(given)})"
            lines.append(f"{origin}: {field}: {message}{shown}")
    return "\n".join(lines)


def _fields_at(model: type[BaseModel], location: tuple[str, ...]) -> list[str]:
    """Field names of the section at `location`; empty where it is not a section."""
    current: type[BaseModel] | None = model
    for key in location:
        field = current.model_fields.get(key) if current is not None else None
        current = None
        if field is not None:
            candidates = (field.annotation, *get_args(field.annotation))
            current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return list(current.model_fields) if current is not None else []


def to_yaml(config: BaseModel | Mapping[str, Any]) -> str:
    """The whole configuration as YAML, every default written out: what a run folder keeps. A mapping as it is."""
    values = config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def annotated(loaded: Loaded[Any]) -> str:
    """The whole configuration as YAML, a line per value with where it came from in a comment; "default" if unset."""
    return "\n".join(_annotate(loaded.config.model_dump(mode="json"), (), loaded.origins)) + "\n"


def _annotate(section: Mapping[str, Any], at: tuple[str, ...], origins: Origins) -> Iterator[str]:
    for key, value in section.items():
        where, indent = (*at, key), "  " * len(at)
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _annotate(cast("dict[str, Any]", value), where, origins)
        else:
            yield f"{indent}{key}: {_in_a_line(value)}  # {origins.get(where, 'default')}"


def _in_a_line(value: Any) -> str:
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)  # which is YAML too
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9).removesuffix("...\n").strip()


def read_yaml(file: Path) -> Any:
    """A YAML file as plain values: what `to_yaml` wrote."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))
