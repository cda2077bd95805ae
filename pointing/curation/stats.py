"""What data files hold, counted in one pass: images, negatives, how large targets are, how long and whither rays point.

Memory does not grow with the files: of each measure a sample of fixed size is kept beside its exact count, mean and
ends.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pointing.coordinates import Size
from pointing.dataset import DatasetOptions, ReadRow, read_rows
from pointing.geometry import Box, area, distance
from schemas.task import GroundTruth

SAMPLED = 50_000  # values of one measure that are kept
DISTINCT = 10_000  # questions, names or sizes that are told apart; further ones are counted together
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SECTORS = ("right", "upper right", "up", "upper left", "left", "lower left", "down", "lower right")
PARTS = ("hand_bbox", "pointing_keypoints", "pointing_ray", "obj_bbox", "obj_name")


@dataclass(frozen=True, slots=True)
class Spread:
    """How a measure is spread: `quantiles` are those of QUANTILES, exact up to SAMPLED values.

    >>> spread_of([1.0, 2.0, 6.0]).mean
    3.0
    """

    count: int
    mean: float
    least: float
    most: float
    quantiles: tuple[float, ...]
    sample: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Frequency:
    """How often a value occurs; "" stands for all values beyond the first DISTINCT.

    >>> Frequency("cup", 3).count
    3
    """

    value: str
    count: int


@dataclass(frozen=True, slots=True)
class NamedShare:
    """Targets of one name: how many, and their mean share of the image's area.

    >>> NamedShare("cup", 2, 0.05).mean_area_share
    0.05
    """

    name: str
    count: int
    mean_area_share: float


@dataclass(frozen=True, slots=True)
class DataStatistics:
    """Counts of rows and parts, and the spread of what can be measured; None where there is nothing to measure.

    Areas are shares of the image's area, ray lengths shares of its diagonal. Lists start with the most frequent.
    """

    rows: int
    refused: int
    negatives: int
    images: int
    parts: tuple[Frequency, ...]
    sizes: tuple[Frequency, ...]
    target_area: Spread | None
    hand_area: Spread | None
    ray_length: Spread | None
    ray_sectors: tuple[Frequency, ...]
    names: tuple[NamedShare, ...]
    questions: tuple[Frequency, ...]

    @property
    def positives(self) -> int:
        """Usable rows in which somebody points."""
        return self.rows - self.refused - self.negatives


def statistics(options: DatasetOptions, row_read: Callable[[], None] = lambda: None) -> DataStatistics:
    """Of all rows of the files; refused ones are counted and left aside. `row_read` is called after each row.

    Raises DatasetError for a file that cannot be read.
    """
    counts = _Counts()
    for row in read_rows(options):
        counts.add(row)
        row_read()
    return counts.done()


def spread_of(values: Iterable[float]) -> Spread:
    """The spread of one or more values."""
    measure = _Measure()
    for value in values:
        measure.add(value)
    spread = measure.done()
    if spread is None:
        raise ValueError("no values: there is nothing to measure")
    return spread


def sector_of(start: tuple[float, float], end: tuple[float, float]) -> str:
    """Which of the eight directions a ray has, as one sees it: y runs down.

    >>> sector_of((0, 0), (1, -1))
    'upper right'
    """
    turn = math.atan2(start[1] - end[1], end[0] - start[0]) / (2 * math.pi)
    return SECTORS[round(turn * 8) % 8]


class _Measure:
    """Values of one measure: exact count, mean and ends, and a sample in which each value is as likely as any other."""

    def __init__(self) -> None:
        self._kept: list[float] = []
        self._count, self._sum, self._least, self._most = 0, 0.0, math.inf, -math.inf
        self._random = random.Random(0)  # the same numbers each time

    def add(self, value: float) -> None:
        self._count += 1
        self._sum += value
        self._least, self._most = min(self._least, value), max(self._most, value)
        if len(self._kept) < SAMPLED:
            self._kept.append(value)
        elif (place := self._random.randrange(self._count)) < SAMPLED:  # Vitter's algorithm R
            self._kept[place] = value

    def done(self) -> Spread | None:
        if not self._kept:
            return None
        ordered = sorted(self._kept)
        quantiles = tuple(ordered[round(q * (len(ordered) - 1))] for q in QUANTILES)
        return Spread(self._count, self._sum / self._count, self._least, self._most, quantiles, tuple(self._kept))


class _Tally:
    """Counts values, of which only so many are told apart."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, value: str) -> str:
        """Counts it; returns the name under which it was counted."""
        if value not in self._counts and len(self._counts) >= DISTINCT:
            value = ""
        self._counts[value] += 1
        return value

    def done(self) -> tuple[Frequency, ...]:
        return tuple(Frequency(value, count) for value, count in self._counts.most_common())


class _Counts:
    def __init__(self) -> None:
        self._rows = self._refused = self._negatives = self._images = 0
        self._parts: Counter[str] = Counter()
        self._sectors: Counter[str] = Counter()
        self._sizes, self._questions, self._names = _Tally(), _Tally(), _Tally()
        self._shares: defaultdict[str, float] = defaultdict(float)
        self._target, self._hand, self._ray = _Measure(), _Measure(), _Measure()

    def add(self, row: ReadRow) -> None:
        self._rows += 1
        if row.task is None:
            self._refused += 1
            return
        self._images += len(row.images)
        for size in row.sizes:
            if size is not None:
                self._sizes.add(f"{size.width}x{size.height}")
        self._questions.add(row.task.question)
        if row.task.ground_truth.negative:
            self._negatives += 1
        elif row.sizes and row.sizes[0] is not None:
            self._truth(row.task.ground_truth, row.sizes[0])

    def _truth(self, truth: GroundTruth, size: Size) -> None:
        for part in PARTS:
            if getattr(truth, part) is not None:
                self._parts[part] += 1
        if truth.hand_bbox is not None:
            self._hand.add(_share(truth.hand_bbox, size))
        if truth.obj_bbox is not None:
            share = _share(truth.obj_bbox, size)
            self._target.add(share)
            if truth.obj_name is not None:
                self._shares[self._names.add(truth.obj_name)] += share
        if truth.pointing_ray is not None:
            start, end = truth.pointing_ray.start, truth.pointing_ray.end
            self._ray.add(distance(start, end) / math.hypot(size.width, size.height))
            self._sectors[sector_of(start, end)] += 1

    def done(self) -> DataStatistics:
        return DataStatistics(
            rows=self._rows,
            refused=self._refused,
            negatives=self._negatives,
            images=self._images,
            parts=tuple(Frequency(part, self._parts[part]) for part in PARTS),
            sizes=self._sizes.done(),
            target_area=self._target.done(),
            hand_area=self._hand.done(),
            ray_length=self._ray.done(),
            ray_sectors=tuple(Frequency(name, self._sectors[name]) for name in SECTORS),
            names=tuple(NamedShare(f.value, f.count, self._shares[f.value] / f.count) for f in self._names.done()),
            questions=self._questions.done(),
        )


def _share(box: Box, size: Size) -> float:
    return area(box) / size.area
