"""Every leaf of the configuration tree matters: varied, it changes something that the run reads, or is refused.

Each leaf is given another value, derived from its type, in a base where it should matter: the tree must hold it then,
or refuse it for a reason that stands here. And each is read by code outside the configuration, or by a property of the
configuration that is.
"""

from __future__ import annotations

import ast
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError

from schemas.config import SftConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
MINIMAL: dict[str, Any] = {"model": {"path": "m"}, "data": {"train_files": "a.jsonl"}, "trainer": {"max_steps": 9}}
GPUS = {"gpus": 1.0}
# Where a leaf has no effect in the minimal configuration: what gives it one. The longest matching name counts.
BASES: dict[str, dict[str, Any]] = {
    "algorithm.adaptive": {"algorithm": {"adaptive": {}}},
    "algorithm.adaptive.power": {"algorithm": {"adaptive": {"mapping": "power"}}},
    "algorithm.adaptive.log_alpha": {"algorithm": {"adaptive": {"mapping": "log"}}},
    "algorithm.adaptive.entropy_bins": {"algorithm": {"adaptive": {"statistic": "entropy"}}},
    "algorithm.gae": {"algorithm": {"advantage": "gae"}, "critic": {}},
    "algorithm.gamma": {"algorithm": {"advantage": "gae"}, "critic": {}},
    "algorithm.loss.tau_positive": {"algorithm": {"loss": {"name": "sapo"}}},
    "algorithm.loss.tau_negative": {"algorithm": {"loss": {"name": "sapo"}}},
    "algorithm.loss.constant": {"algorithm": {"loss": {"denominator": "constant", "constant": 7.0}}},
    "algorithm.kl.controller": {"algorithm": {"kl": {"target": 0.1, "horizon": 100.0, "controller": "adaptive"}}},
    "algorithm.kl.target": {"algorithm": {"kl": {"target": 0.1, "horizon": 100.0, "controller": "adaptive"}}},
    "algorithm.kl.horizon": {"algorithm": {"kl": {"target": 0.1, "horizon": 100.0, "controller": "adaptive"}}},
    "algorithm.mismatch": {"algorithm": {"mismatch": {}}},
    "algorithm.mismatch.low": {"algorithm": {"mismatch": {"mode": "mask"}}},
    "algorithm.dynamic_sampling": {"algorithm": {"dynamic_sampling": {}}},
    "algorithm.overlong": {"algorithm": {"overlong": {"limit": 90, "buffer": 20}}},
    "critic": {"algorithm": {"advantage": "gae"}, "critic": {}},
    "critic.sharding.cpu_offload": {
        "algorithm": {"advantage": "gae"},
        "critic": {},
        "resources": {"critic": GPUS},
    },
    "critic.compile": {"algorithm": {"advantage": "gae"}, "critic": {}, "resources": {"critic": GPUS}},
    "learner.sharding.cpu_offload": {"resources": {"learner": GPUS}},
    "learner.compile": {"resources": {"learner": GPUS}},
    "learner.max_ratio": {"learner": {"mini_batches": 2}},
    "learner.optimiser.min_ratio": {"learner": {"optimiser": {"schedule": "cosine"}}},
    "critic.optimiser.min_ratio": {
        "algorithm": {"advantage": "gae"},
        "critic": {"optimiser": {"schedule": "cosine"}},
    },
    "model.lora": {"model": {"path": "m", "lora": {}}},
    "resources.gpu_kind": {"resources": {"learner": GPUS}},
    "resources.gpu_peak_tflops": {"resources": {"learner": GPUS}},
    "resources.critic": {"algorithm": {"advantage": "gae"}, "critic": {}},
    "resources.weight_transfer": {"resources": {"rollout": GPUS, "learner": GPUS}},
    "reward.autoscaling": {"reward": {"autoscaling": {}}},
    "reward.host": {"reward": {"port": 8100, "token_env": "TOKEN"}},
    "reward.max_body_bytes": {"reward": {"port": 8100}},
    "reward.max_items": {"reward": {"port": 8100}},
    "reward.max_evaluation_bytes": {"reward": {"port": 8100}},
    "reward.max_evaluation_items": {"reward": {"port": 8100}},
    "reward.token_env": {"reward": {"port": 8100}},
    "reward.function": {"reward": {"function": "a.py:f"}},
    "reward.function_kwargs": {"reward": {"function": "a.py:f"}},
    "reward.function_timeout_s": {"reward": {"function": "a.py:f"}},
    "trainer.epochs": {"trainer": {"epochs": 2, "max_steps": None}},
    "rollout.sampling": {"algorithm": {"mismatch": {}}},
    "learner.micro_batch_tokens": {"learner": {"micro_batch_tokens": 8192}},
    "learner.sharding.ranks": {"resources": {"learner": {"count": 4}}},
    "critic.sharding.ranks": {
        "algorithm": {"advantage": "gae"},
        "critic": {},
        "resources": {"critic": {"count": 4}},
    },
}
# Text whose form the type does not say.
TEXTS = {
    "name": "other",
    "function": "b.py:g",
    "token_env": "OTHER",
    "mirror": "file:///other",
    "prompt_style": "short",
    "label": "other",
    "host": "127.0.0.2",
}


def leaves(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field that is no section, with its annotation and constraints."""
    hints = typing.get_type_hints(model, include_extras=True)
    for name in model.model_fields:
        section = next((a for a in alternatives(hints[name]) if isinstance(a, type) and issubclass(a, BaseModel)), None)
        if section is None:
            yield (*at, name), hints[name]
        else:
            yield from leaves(section, (*at, name))


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, without what Annotated adds."""
    if get_origin(annotation) is typing.Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for member in get_args(annotation) for each in alternatives(member)]
    return [annotation]


def constraints(annotation: Any) -> list[Any]:
    """Bounds that Annotated adds, at any depth."""
    found: list[Any] = []
    if get_origin(annotation) is typing.Annotated:
        for each in get_args(annotation)[1:]:
            found += getattr(each, "metadata", [each])
    for inner in get_args(annotation) if get_origin(annotation) is not Literal else ():
        found += constraints(inner)
    return found


def others(name: str, annotation: Any, value: Any) -> Iterator[Any]:
    """Values other than `value` that the type allows, likely ones first."""
    members = alternatives(annotation)
    for member in members:
        if get_origin(member) is Literal:
            yield from (choice for choice in get_args(member) if choice != value)
        elif member is bool:
            yield not value
        elif member in (int, float):
            start = value if isinstance(value, int | float) else 1
            lowest = max([c.ge for c in constraints(annotation) if isinstance(c, Ge)], default=None)
            highest = min(
                [c.le if isinstance(c, Le) else c.lt for c in constraints(annotation) if isinstance(c, Le | Lt)],
                default=None,
            )
            positive = any(isinstance(c, Gt) for c in constraints(annotation))
            for guess in (start + 1, start * 2, start * 4, start / 2, 0.5, 0.25, start + 3, 16, lowest, highest):
                if guess is None or guess == value or (positive and guess <= 0):
                    continue
                if member is int and guess != int(guess):
                    continue
                yield member(guess)
        elif member is str:
            yield TEXTS.get(name, f"{value or ''}other")
        elif get_origin(member) is tuple:
            inner = get_args(member)[0]
            if get_origin(inner) is Literal:
                yield get_args(inner)[1:]
            yield ["other"] if inner is str else [0.5, 0.6]
        elif get_origin(member) is dict:
            yield {"other": 1}


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`base` with the sections of `change` laid over it."""
    out = dict(base)
    for key, value in change.items():
        inside = out.get(key)
        out[key] = merged(inside, value) if isinstance(value, dict) and isinstance(inside, dict) else value
    return out


def base_of(path: tuple[str, ...]) -> dict[str, Any]:
    dotted = ".".join(path)
    fitting = [name for name in BASES if dotted == name or dotted.startswith(f"{name}.")]
    return merged(MINIMAL, BASES[max(fitting, key=len)]) if fitting else MINIMAL


def get(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def readers() -> dict[str, set[str]]:
    """Every attribute name that code outside the configuration reads, and the files that do."""
    found: dict[str, set[str]] = {}
    for package in ("orchestrator", "actors", "services", "policy", "algorithms", "pointing", "schemas"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    found.setdefault(node.attr, set()).add(str(file.relative_to(ROOT)))
    return found


READERS = readers()
TRAIN = dict(leaves(TrainConfig))
SFT = dict(leaves(SftConfig))


@pytest.mark.parametrize("path", TRAIN, ids=".".join)
def test_another_value_of_a_leaf_is_taken_where_it_matters(path: tuple[str, ...]) -> None:
    """In its base the leaf can be varied, and the tree then holds another value: nothing swallows it."""
    base = base_of(path)
    before = TrainConfig.model_validate(base)
    value = get(before, path) if get(before, path[:-1]) is not None else None
    refusals: list[str] = []
    for other in others(path[-1], TRAIN[path], value):
        change: Any = other
        for name in reversed(path):
            change = {name: change}
        try:
            after = TrainConfig.model_validate(merged(base, change))
        except ValidationError as error:
            refusals.append(str(error))
            continue
        assert get(after, path) != value
        return
    assert any(ALONE.get(path, "\0") in said for said in refusals), f"no other value was taken: {refusals[:2]}"


@pytest.mark.parametrize("path", sorted(TRAIN.keys() | SFT.keys()), ids=".".join)
def test_every_leaf_is_read_outside_the_configuration(path: tuple[str, ...]) -> None:
    """By name, or as part of a section that is handed on whole: see WHOLE."""
    name, section = path[-1], ".".join(path[:-1])
    outside = {file for file in READERS.get(name, set()) if not file.startswith("schemas/config/")}
    assert outside or any(section == whole or section.startswith(f"{whole}.") for whole in WHOLE) or path in DERIVED, (
        f"{'.'.join(path)}: nothing outside schemas/config reads .{name}"
    )


# Leaves that cannot be varied alone, and what the refusal says.
ALONE = {
    ("algorithm", "kl", "controller"): "target and horizon have no effect with controller='fixed'",
    ("data", "transcript_key"): "has no effect in stage 2, which reads no transcripts",
}
# Sections that a function outside takes whole, and where.
WHOLE = {
    "reward.rules": "pointing.rewards.score",
    "reward.autoscaling": "services/reward/deployment.py, all of its fields as Serve's",
}
# Read by a property of the configuration that the run reads in its place.
DERIVED: set[tuple[str, ...]] = {
    ("algorithm", "kl", "controller"),  # target and horizon are there with "adaptive" alone
    *((part, "micro_batch_rows") for part in ("learner", "critic")),  # Learner.micro_batches
    *((part, "micro_batch_tokens") for part in ("learner", "critic")),
}


def refused(change: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate(merged(MINIMAL, change))
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"algorithm": {"adaptive": {"power": 0.7}}}, "power=0.7 has no effect with mapping='sqrt'"),
        ({"algorithm": {"adaptive": {"log_alpha": 2.0}}}, "log_alpha=2.0 has no effect with mapping='sqrt'"),
        ({"algorithm": {"adaptive": {"entropy_bins": 9}}}, "entropy_bins=9 has no effect with statistic='variance'"),
        (
            {"algorithm": {"adaptive": {"baseline": "batch", "momentum": 0.5}}},
            "momentum=0.5 has no effect with baseline='batch'",
        ),
        (
            {"algorithm": {"adaptive": {"baseline": "batch", "initial": 2.0}}},
            "initial=2.0 has no effect with baseline='batch'",
        ),
        ({"algorithm": {"kl": {"coefficient": 0, "estimator": "k2"}}}, "estimator='k2' has no effect"),
        ({"resources": {"critic": {"count": 2}}}, "has no effect without a critic section"),
        (
            {"algorithm": {"kl": {"coefficient": 0}}, "resources": {"reference": {"count": 2}}},
            "has no effect where no reference is started (algorithm.kl.coefficient is 0)",
        ),
        (
            {"algorithm": {"kl": {"estimator": "full"}}, "resources": {"reference": {"cpus": 2}}},
            "has no effect where no reference is started (the exact KL is computed by the learner)",
        ),
        ({"data": {"transcript_key": "said"}}, "transcript_key='said' has no effect in stage 2"),
        ({"learner": {"optimiser": {"min_ratio": 0.1}}}, "min_ratio=0.1 has no effect with schedule='constant'"),
        ({"reward": {"host": "127.0.0.2"}}, "host='127.0.0.2' has no effect without port"),
        ({"reward": {"max_items": 9}}, "max_items=9 has no effect without port"),
        ({"reward": {"function_timeout_s": 9.0}}, "function_timeout_s=9.0 has no effect without function"),
        ({"resources": {"rollout_engines": 2}}, "use resources.rollout.count"),
        ({"resources": {"placement": {}}}, "use resources.ROLE.place"),
    ],
)  # fmt: skip
def test_what_nothing_would_read_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in refused(change)


def test_defaults_that_are_written_out_are_legal() -> None:
    """A run folder's config.yaml writes all of them, and can start another run."""
    whole = TrainConfig.model_validate(MINIMAL)
    assert TrainConfig.model_validate(whole.model_dump(mode="json")) == whole
