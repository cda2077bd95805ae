"""Metrics of a whole prediction set, for HTTP and for the command line alike.

items --> rewards        \\
      --> measurements ---> EvaluationReport: overall and by size of the target, with confidence intervals
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from pointing.intervals import interval
from pointing.metrics import TARGET_SIZES, Estimate, Measurement, measure, summarise
from schemas.evaluation import EvaluationReport, MetricEstimate
from services.reward.scoring import Item, Reward, ScoringError

CONFIDENCE = 0.95


def evaluate(items: Sequence[Item], reward: Reward, confidence: float = CONFIDENCE) -> EvaluationReport:
    """Scores and measures at least one item. Items of the same id are draws of one task; without one, each is a task.

    Raises ScoringError if a reward cannot be computed.
    """
    tasks = [number if item.id is None else item.id for number, item in enumerate(items)]
    rewards = [score.reward for score in reward.score(items)]
    try:
        mean = Estimate.of(rewards, tasks)
    except OverflowError as error:
        raise ScoringError(f"rewards up to {max(map(abs, rewards)):g} are too large to average") from error
    measured = [measure(item.reply, item.truth, item.frame) for item in items]
    summary = summarise(measured, tasks)
    overall = {name: known for name, known in summary.estimates.items() if not name.endswith(TARGET_SIZES)}
    return EvaluationReport(
        replies=summary.replies,
        positives=summary.positives,
        negatives=summary.negatives,
        confidence=confidence,
        reward=_bounded("reward", mean, confidence),
        metrics=_all_bounded(overall, confidence),
        by_size={size: _of_size(measured, tasks, size, confidence) for size in TARGET_SIZES},
    )


def _of_size(
    measured: Sequence[Measurement], tasks: Sequence[Hashable], size: str, confidence: float
) -> dict[str, MetricEstimate]:
    chosen = [(one, task) for one, task in zip(measured, tasks, strict=True) if one.target_size == size]
    known = summarise([one for one, _ in chosen], [task for _, task in chosen]).estimates
    return _all_bounded({name: one for name, one in known.items() if not name.endswith(TARGET_SIZES)}, confidence)


def _all_bounded(estimates: Mapping[str, Estimate], confidence: float) -> dict[str, MetricEstimate]:
    return {name: _bounded(name, estimate, confidence) for name, estimate in estimates.items()}


def _bounded(name: str, estimate: Estimate, confidence: float) -> MetricEstimate:
    low, high = interval(name, estimate, confidence) or (None, None)
    return MetricEstimate(
        mean=estimate.mean, count=estimate.count, standard_error=estimate.standard_error, low=low, high=high
    )
