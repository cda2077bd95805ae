"""Which settings a run may change when it continues, and which make it another run.

Where it is, how long it goes on, and what is kept may change. What only shares out the work may change too, and is
named: numbers then agree to rounding. Anything else is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel

_FREE = (
    "run.name",
    "run.folder",
    "run.resume",
    "run.resume_step",
    "run.grace_s",
    "run.timeline",
    "run.trackers",
    "trainer",
    "checkpoint",
    "validation",
    "resources.start_timeout_s",
    "resources.call_timeout_s",
    "resources.collective_timeout_s",
    "resources.silence_timeout_s",
    "resources.max_restarts",
    "resources.object_store_bytes",
    *(f"resources.{role}.place" for role in ("rollout", "learner", "reference", "critic")),
)
_OF_PASSES = ("micro_batch_rows", "micro_batch_tokens", "sharding", "compile", "layout")
_SHARES_OUT = (
    "resources",
    "rollout.engine",
    "rollout.shards_per_engine",
    "model.attention",
    "model.gradient_checkpointing",
    *(f"{network}.{field}" for network in ("learner", "critic") for field in _OF_PASSES),
)


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs from the one that the run was started with.

    >>> print(Change("algorithm.kl.coefficient", 0.1, 0.2))
    algorithm.kl.coefficient was 0.1 and is 0.2
    """

    field: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field} was {self.was!r} and is {self.now!r}"


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs: `refused` makes it another run, `named` changes numbers by rounding."""

    refused: tuple[Change, ...]
    named: tuple[Change, ...]


def compare(old: Mapping[str, Any], new: BaseModel) -> Changes:
    """The settings that a folder was written with, and those of now. With run.deterministic rounding matters too."""
    now: dict[str, Any] = new.model_dump(mode="json")
    changes = [change for change in _differences(old, now, "") if not _under(change.field, _FREE)]
    exact = bool(now.get("run", {}).get("deterministic"))
    refused = [change for change in changes if exact or not _under(change.field, _SHARES_OUT)]
    return Changes(tuple(refused), tuple(change for change in changes if change not in refused))


def digest(config: BaseModel) -> str:
    """The same for configurations that may share a run; kept in every checkpoint."""
    kept = {field: value for field, value in _leaves(config.model_dump(mode="json"), "") if not _may_change(field)}
    return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=16).hexdigest()


def _may_change(field: str) -> bool:
    return _under(field, _FREE) or _under(field, _SHARES_OUT)


def _under(field: str, sections: tuple[str, ...]) -> bool:
    return any(field == section or field.startswith(f"{section}.") for section in sections)


def _differences(old: Any, new: Any, at: str) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        was, now = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        for key in was | now:
            yield from _differences(was.get(key), now.get(key), f"{at}.{key}".lstrip("."))
    elif old != new:
        yield Change(at, old, new)


def _leaves(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, child in cast("dict[str, Any]", value).items():
            yield from _leaves(child, f"{at}.{key}".lstrip("."))
    else:
        yield at, value
