"""Turns a configuration of the published system into one of ours, and writes docs/migrating.md from the same table.

old.yaml + key=value ... -> every published setting -> table -> our settings, checked as any other configuration
                                                          '-> a line for each: mapped, dropped, or to be decided
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from migration.rules import PublishedError
from migration.table import KNOBS, Knob
from schemas.config import TrainConfig
from schemas.config.file import ConfigError, Origins, merge, to_yaml


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one published setting. `origin` is "" where the published default applies."""

    origin: str
    old: str
    value: Any
    new: Mapping[str, Any]
    remark: str
    decide: str

    def __str__(self) -> str:
        said = f"{self.origin or 'published default'}: {self.old}={self.value!r}"
        into = ", ".join(f"{name}={value!r}" for name, value in self.new.items()) or "dropped"
        return f"{said} -> {into}" + (f"  ({self.remark})" if self.remark else "")


@dataclass(frozen=True, slots=True)
class Imported:
    """Our configuration as plain values, and a line per published setting. `problems` is why ours would refuse it."""

    values: Mapping[str, Any]
    lines: tuple[Line, ...]
    problems: str

    @property
    def decisions(self) -> tuple[str, ...]:
        """What the user must settle, one text each."""
        asked = [f"{line.old}={line.value!r}: {line.decide}" for line in self.lines if line.decide]
        return (*asked, *self.problems.splitlines())

    def report(self) -> str:
        """A line for every setting that was given or is decisive by its default."""
        changed = TrainConfig.model_validate(_SMALLEST).model_dump(mode="json")
        mapped = [line for line in self.lines if line.new and line.origin]
        silent = [line for line in self.lines if not line.origin and _differs(line.new, changed)]
        dropped = [line for line in self.lines if not line.new and line.origin]
        parts = [
            ("mapped", [str(line) for line in mapped]),
            ("published defaults that are not ours", [str(line) for line in silent]),
            ("dropped", [str(line) for line in dropped]),
            ("needs a decision", list(self.decisions)),
        ]
        return "\n".join(f"{title} ({len(lines)})" + "".join(f"\n  {line}" for line in lines) for title, lines in parts)

    def yaml(self) -> str:
        """Our configuration file, what is to be decided at its head."""
        head = ["# Converted from a configuration of the published system by `pointvg config import`."]
        head += [f"# decide: {decision}" for decision in self.decisions]
        return "\n".join(head) + "\n" + to_yaml(self.values)


def import_config(file: Path, overrides: Sequence[str] = ()) -> Imported:
    """Reads a published configuration with its dotted overrides, and `NAME=value` for environment variables.

    Raises ConfigError naming file and line for a setting that the published system does not have.
    """
    given = [text for text in overrides if not text.startswith("config=")]  # names the file itself
    values, origins = merge(file, given)
    found = _settings(values, origins)
    old = {name: found.get(name, knob.default) for name, knob in KNOBS.items()}
    lines = tuple(_convert(knob, old, origins) for knob in KNOBS.values() if knob.old in found or not _capital(knob))
    dotted: dict[str, Any] = {}
    for line in lines:
        dotted |= line.new
    nested = _nest(dotted)
    try:
        config = TrainConfig.model_validate(nested)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc'])) or 'configuration'}: {p['msg']}" for p in error.errors()]
        return Imported(nested, lines, "\n".join(problems))
    plain = config.model_dump(mode="json", exclude_unset=True)
    return Imported(plain, lines, "")


def _capital(knob: Knob) -> bool:
    return knob.old.isupper()


def _settings(values: Mapping[str, Any], origins: Origins) -> dict[str, Any]:
    """Published settings by dotted name. Raises ConfigError listing every unknown one."""
    found: dict[str, Any] = {}
    unknown: list[str] = []
    sections = {name.rsplit(".", depth)[0] for name in KNOBS for depth in range(1, name.count(".") + 1)}

    def walk(section: Mapping[str, Any], at: tuple[str, ...]) -> None:
        for key, value in section.items():
            where = (*at, str(key))
            name = ".".join(where)
            if name in KNOBS:
                found[name] = value
            elif isinstance(value, dict) and name in sections:
                walk(value, where)
            elif not (value is None and name in sections):
                near = difflib.get_close_matches(name, KNOBS, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                unknown.append(f"{origins.get(where, 'configuration')}: {name}: no such setting{hint}")

    walk(values, ())
    if unknown:
        raise ConfigError("\n".join(unknown))
    return found


def _convert(knob: Knob, old: Mapping[str, Any], origins: Origins) -> Line:
    value = old[knob.old]
    origin = origins.get(tuple(knob.old.split(".")), "")
    try:
        outcome = knob.convert(value, old)
    except (PublishedError, TypeError, ValueError) as error:
        raise ConfigError(f"{origin or 'published default'}: {knob.old}={value!r} cannot be read: {error}") from None
    remark = outcome.remark or knob.why
    return Line(origin, knob.old, value, outcome.values, remark, outcome.decide)


def _nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name in sorted(dotted, key=lambda name: name.count(".")):  # sections before what is in them
        *sections, last = name.split(".")
        inside = nested
        for section in sections:
            inside = inside.setdefault(section, {})
        value = dotted[name]
        inside[last] = dict(value) if isinstance(value, dict) else value
    return nested


_SMALLEST = {"model": {"path": ""}, "data": {"train_files": ""}, "trainer": {"max_steps": 1}}


def _differs(new: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a setting is not our default."""
    for name, value in new.items():
        at: Any = ours
        for key in name.split("."):
            at = at.get(key) if isinstance(at, dict) else None
        if at != (list(value) if isinstance(value, tuple) else value):
            return True
    return False


_HEAD = """# From the published system

`pointvg config import old.yaml --out new.yaml` turns a configuration of the published system into one of this project
and says for every setting what became of it: mapped, dropped and why, or left for you to decide. Overrides of the
launch script follow as they are, environment variables too:

```
pointvg config import config.yaml --out new.yaml data.max_pixels=1048576 worker.rollout.n=5 VLLM_USE_V1=1
pointvg config show --config new.yaml
```

Settings that were not given keep the published default, also where ours is another. A name that the published system
does not have is refused with its file and line. The new file opens with what is left to decide.

`scripts/train.sh` is the start that you know: three paths, and what the launch script set, in the environment. `--dry`
checks all of it and starts nothing. With `OLD_CONFIG` it makes the import above first, and runs what comes of it:

```
MODEL_PATH=/models/start TRAIN_FILES=train.jsonl VAL_FILES=val.jsonl scripts/train.sh --dry
MODEL_PATH=/models/start TRAIN_FILES=train.jsonl VAL_FILES=val.jsonl KL_COEF=0.05 scripts/train.sh trainer.epochs=2
OLD_CONFIG=config.yaml MODEL_PATH=/models/start TRAIN_FILES=train.jsonl VAL_FILES=val.jsonl scripts/train.sh
```

Without `OLD_CONFIG`, or `CONFIG` with a file of this project, everything else comes from `configs/published.yaml`: the
published launch script's values. The script's head lists the variables that it reads.

This page is written by `pointvg config migrating` from the table that the command uses."""


def migrating() -> str:
    """docs/migrating.md."""
    parts = [_HEAD]
    section = ""
    for knob in KNOBS.values():
        at = _section(knob.old)
        if at != section:
            section = at
            parts.append(f"\n## {at}\n\n| published | default | here | |\n|---|---|---|---|")
        here = "<br>".join(f"`{name}`" for name in knob.new) or "gone"
        parts.append(f"| `{knob.old.removeprefix(at + '.')}` | `{knob.default!r}` | {here} | {knob.why} |")
    return "\n".join(parts) + "\n"


def _section(name: str) -> str:
    if name.isupper():
        return "environment"
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "worker" and len(parts) > 2 else parts[0]
