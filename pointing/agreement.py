"""How far several answers to one question agree, which says how sure a model is of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pointing.geometry import Box, iou

SAME = 0.5  # IoU of two boxes of one object


@dataclass(frozen=True, slots=True)
class Agreement:
    """`best` is the number of the answer that most others agree with, `share` how many of all agree with it, itself
    included.

    >>> agreement([(0, 0, 10, 10), (100, 100, 110, 110), (0, 0, 10, 9)])
    Agreement(best=0, share=0.6666666666666666)
    """

    best: int
    share: float


def agreement(answers: Sequence[Box | None]) -> Agreement:
    """Of target boxes, in pixels of one image; None is the answer that there is none. At least one.

    Two boxes agree from an IoU of 0.5 on, and two answers without a box do. Among answers that equally many agree with,
    the one with the largest sum of IoUs is taken, then the first. Raises ValueError without answers.
    """
    if not answers:
        raise ValueError("no answer: agreement is of one at least")
    likeness = [
        [1.0 if n == m else _alike(one, other) for m, other in enumerate(answers)] for n, one in enumerate(answers)
    ]
    votes = [(sum(value >= SAME for value in row), sum(row), -number) for number, row in enumerate(likeness)]
    count, _, best = max(votes)
    return Agreement(-best, count / len(answers))


def _alike(one: Box | None, other: Box | None) -> float:
    if one is None or other is None:
        return float(one is other)
    return iou(one, other)
