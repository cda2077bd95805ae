"""What was run, in lines of name and value: method, data, settings that are not the default, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from pydantic import BaseModel

from orchestrator.batch.tasks import SPLITS, files_of
from orchestrator.report.charts import number
from orchestrator.report.run_record import RunRecord
from schemas.config import SftConfig, TrainConfig

_OF_THE_PAGE = ("run.name", "run.folder")  # are in its heading


@dataclass(frozen=True, slots=True)
class Fact:
    """A line for people.

    >>> Fact("seed", "1").name
    'seed'
    """

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class ChangedSetting:
    """A setting that is not at its default. `default` is "" where there is none: it had to be given.

    >>> ChangedSetting("run.seed", "7", "1").field
    'run.seed'
    """

    field: str
    value: str
    default: str


def what_was_run(run: RunRecord) -> list[Fact]:
    """Method, model, data, seed and versions."""
    config = run.config
    facts = [Fact("method", _method(run)), Fact("model", config.model.path)]
    for split in SPLITS:
        if files := files_of(config.data, split):
            facts.append(Fact(f"{split} data", ", ".join(files)))
    facts.append(Fact("seed", str(config.run.seed)))
    facts.append(Fact("repeats bit for bit", "yes" if config.run.deterministic else "no"))
    return [*facts, Fact("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items()))]


def _method(run: RunRecord) -> str:
    config = run.config
    if isinstance(config, SftConfig):
        return "stage 1: supervised fine-tuning on transcripts"
    algorithm = config.algorithm
    parts = [f"stage 2: {algorithm.advantage}"]
    if algorithm.adaptive is not None:
        parts.append("adaptive weights")
    if algorithm.dynamic_sampling is not None:
        parts.append("dynamic sampling")
    parts.append(f"loss {algorithm.loss.name}")
    if config.uses_reference:
        parts.append(f"KL {algorithm.kl.estimator} x {algorithm.kl.coefficient:g} in the {algorithm.kl.place}")
    if config.model.lora is not None:
        parts.append("adapters alone are trained")
    return ", ".join(parts)


def plan_and_cost(run: RunRecord) -> list[Fact]:
    """The batch plan, and steps, time, trajectories and tokens so far. What was not logged is not said."""
    config, facts = run.config, list[Fact]()
    if isinstance(config, TrainConfig):
        facts.append(Fact("batch plan", str(config.plan)))
        if config.critic_plan:
            facts.append(Fact("critic plan", str(config.critic_plan)))
    facts.append(Fact("steps", _steps(run)))
    seconds = run.values("time/step")
    if seconds:
        facts.append(
            Fact("time in steps", f"{duration(sum(seconds))}; half of them took under {median(seconds):.1f} s")
        )
    played = _played(run)
    if played is not None:
        facts.append(Fact("trajectories", f"{played:,.0f}"))
    if rates := run.values("pace/tokens_per_second"):
        tokens = sum(rate * step for rate, step in zip(rates, seconds, strict=False))
        facts.append(Fact("tokens, prompts and images counted", f"{tokens:,.0f}"))
    if trained := run.values("reply/trained_tokens"):
        facts.append(Fact("tokens trained on", f"{sum(trained):,.0f}"))
    if interruptions := run.asides:
        facts.append(Fact("interruptions after which steps were made again", str(interruptions)))
    return facts


def _steps(run: RunRecord) -> str:
    config = run.config
    if isinstance(config, SftConfig):
        planned = -(-config.trainer.samples // config.trainer.batch_rows)
        return f"{run.steps} of {planned}"
    if config.trainer.max_steps is not None:
        return f"{run.steps} of {config.trainer.max_steps}"
    return f"{run.steps}, in {config.trainer.epochs} passes over the data"


def _played(run: RunRecord) -> float | None:
    """Trajectories, those that dynamic sampling left out not counted."""
    rates, seconds = run.values("pace/samples_per_second"), run.values("time/step")
    if rates:
        return sum(rate * step for rate, step in zip(rates, seconds, strict=False))
    return float(run.steps * run.config.plan.trajectories) if isinstance(run.config, TrainConfig) else None


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> [duration(s) for s in (12.34, 125, 7384)]
    ['12.3 s', '2 min 5 s', '2 h 3 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def changed_settings(config: BaseModel) -> list[ChangedSetting]:
    """Every setting that is not at its default, in the order of the configuration's sections."""
    return [found for found in _changed(config, None, "") if found.field not in _OF_THE_PAGE]


def _changed(section: BaseModel, usual: BaseModel | None, at: str) -> Iterator[ChangedSetting]:
    for name, field in type(section).model_fields.items():
        value, where = getattr(section, name), f"{at}.{name}".lstrip(".")
        required = usual is None and field.is_required()
        default = getattr(usual, name) if usual is not None else field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            known = default if isinstance(default, type(value)) else None
            if known is None and not required:  # a section that is off by default
                yield ChangedSetting(where, "given", _shown(default))
            yield from _changed(value, known, where)
        elif required or value != default:
            yield ChangedSetting(where, _shown(value), "" if required else _shown(default))


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(_shown, value)) if isinstance(value, tuple) else str(value)


def last_numbers(run: RunRecord) -> list[tuple[str, list[Fact]]]:
    """Every number of the last record of each kind: "train", "validation"."""
    found: dict[str, list[Fact]] = {}
    for kind, key in run.series:
        steps, values = run.series[kind, key]
        if steps[-1] == max(s[-1] for (other, _), (s, _) in run.series.items() if other == kind):
            found.setdefault(kind, []).append(Fact(key, number(values[-1])))
    return list(found.items())
