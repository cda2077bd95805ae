"""The evaluation contract: metrics of a whole prediction set, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import FiniteFloat, NonNegativeInt

from schemas.task import Record


class MetricEstimate(Record):
    """A mean over `count` replies. `low` and `high` bound it at the report's confidence.

    Errors and bounds take tasks for independent of one another, and replies of the same id for draws of one task. They
    are absent where a single task says nothing of its spread.

    >>> MetricEstimate(mean=0.5, count=1).low is None
    True
    """

    mean: FiniteFloat
    count: NonNegativeInt
    standard_error: FiniteFloat | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None


class EvaluationReport(Record):
    """What a prediction set scores. `metrics` are those of pointing/metrics.py; `reward` is that of the rules in force.

    `by_size` holds the metrics of the positives whose target is small, medium or large in its image. Replies whose
    image size is unknown (no `frame`) are in none of the three.
    """

    replies: NonNegativeInt
    positives: NonNegativeInt
    negatives: NonNegativeInt
    confidence: FiniteFloat
    reward: MetricEstimate
    metrics: Mapping[str, MetricEstimate]
    by_size: Mapping[str, Mapping[str, MetricEstimate]]
