"""Confidence intervals of means over a dataset, for tasks that are independent of one another.

Shares (accuracies and rates): Wilson's score interval (Wilson, 1927), which holds at 0 and 1 too, for the number of
independent replies that would have the standard error. Other means: Student's t with one degree of freedom less than
there are tasks, its quantile by the expansion of Abramowitz and Stegun 26.7.5.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from pointing.metrics import Estimate

Interval = tuple[float, float]


def interval(name: str, estimate: Estimate, confidence: float = 0.95) -> Interval | None:
    """The interval of the metric `name` that covers its true mean with this confidence, in (0, 1).

    None for a mean of a single task, which says nothing of its spread.

    >>> low, high = interval("miss_rate", Estimate.of([0.0, 0.0, 1.0, 1.0]))
    >>> round(low, 3), round(high, 3)
    (0.15, 0.85)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a share between 0 and 1, such as 0.95")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if is_share(name):
        return _wilson(estimate.mean, _independent(estimate), z)
    if estimate.standard_error is None:
        return None
    reach = student_quantile(z, estimate.tasks - 1) * estimate.standard_error
    return estimate.mean - reach, estimate.mean + reach


def is_share(name: str) -> bool:
    """True for metrics that are the share of replies of which something holds."""
    return name.endswith("_rate") or "_acc_" in name or name == "caption_accuracy"


def _independent(estimate: Estimate) -> float:
    """How many independent replies would have a share's standard error, at most `count`: all, if each has its own task.

    A share of 0 or 1 has an error of 0 whatever the draws of a task share: there tasks alone count.
    """
    if estimate.standard_error is None or estimate.mean in (0, 1):
        return float(estimate.tasks)
    variance = estimate.mean * (1 - estimate.mean) * estimate.tasks / (estimate.tasks - 1)
    return variance / max(estimate.standard_error**2, variance / estimate.count)


def _wilson(share: float, count: float, z: float) -> Interval:
    spread = z * z / count
    centre = (share + spread / 2) / (1 + spread)
    reach = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def student_quantile(z: float, freedom: int) -> float:
    """Student's t for the normal quantile z; within 1 % from two degrees of freedom on.

    >>> round(student_quantile(1.959964, 9), 3)
    2.262
    """
    z2 = z * z
    terms = (
        z * (z2 + 1) / 4,
        z * (5 * z2**2 + 16 * z2 + 3) / 96,
        z * (3 * z2**3 + 19 * z2**2 + 17 * z2 - 15) / 384,
        z * (79 * z2**4 + 776 * z2**3 + 1482 * z2**2 - 1920 * z2 - 945) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
