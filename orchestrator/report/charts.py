"""Charts as places on a drawing: what the template writes as SVG. No drawing here, so that numbers can be tested.

    series --thinned--> means of bins --scaled--> LineChart: lines of dots, ticks
    bars of parts ------------------------------> StackedChart: segments, ticks

Places are in units of the drawing, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

WIDTH, HEIGHT = 380.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 372.0, 10.0, 170.0  # of the plot; beside and below it stand ticks and labels
MOST_POINTS, MOST_BARS = 120, 40


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis.

    >>> Tick(10.0, "0.5").label
    '0.5'
    """

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a line: where it stands, the step, and its value in words."""

    x: float
    y: float
    step: str
    value: str


@dataclass(frozen=True, slots=True)
class DrawnLine:
    """A line with its name and colour (the number of a colour of the style sheet)."""

    label: str
    colour: int
    dots: tuple[Dot, ...]

    @property
    def points(self) -> str:
        """As SVG's polyline takes them."""
        return " ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in self.dots)


@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines over steps. `summary` says in words what they show."""

    title: str
    lines: tuple[DrawnLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class NamedSeries:
    """What is drawn as one line: values by step, and the colour's number.

    >>> NamedSeries("training", 0, (0, 1), (7.5, 8.0)).values[-1]
    8.0
    """

    label: str
    colour: int
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class BarPart:
    """A part of a bar: its colour's number, where it begins and how high it is, and what it says."""

    colour: int
    y: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class StackedBar:
    """A bar and the label below it; a label of "" is not shown."""

    x: float
    width: float
    label: str
    segments: tuple[BarPart, ...]


@dataclass(frozen=True, slots=True)
class StackedChart:
    """Bars of parts. `legend` names the colours by their numbers; `x_label` says what a bar is."""

    title: str
    x_label: str
    legend: tuple[str, ...]
    bars: tuple[StackedBar, ...]
    y_ticks: tuple[Tick, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class Parts:
    """One bar to be drawn: its label, and a value for each name of the legend.

    >>> sum(Parts("step 3", (1.5, 0.5)).values)
    2.0
    """

    label: str
    values: tuple[float, ...]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], some `about` of them.

    >>> ticks(0.0, 10.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    rough = (high - low) / about
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    apart = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.75)
    first, last = math.ceil(low / apart - 1e-9), math.floor(high / apart + 1e-9)
    return [n * apart for n in range(first, last + 1)]


def number(value: float) -> str:
    """A number for people: four digits that count, no exponent where it can be helped.

    >>> [number(v) for v in (0.0, 1234567.0, 12.3456, 0.00012345, 3.0)]
    ['0', '1,234,567', '12.35', '0.0001234', '3']
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}" if size < 1e15 else f"{value:.3g}"
    if size < 1e-6:
        return f"{value:.3g}"
    decimals = max(0, 3 - math.floor(math.log10(size)))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def short(value: float) -> str:
    """The same in the room beside an axis, some six letters.

    >>> [short(v) for v in (0.00002, 0.25, 1500.0, 2000000.0)]
    ['2e-05', '0.25', '1,500', '2e+06']
    """
    size = abs(value)
    return number(value) if size == 0 or 1e-3 <= size < 1e5 else f"{value:.3g}"


def line_chart(title: str, series: Sequence[NamedSeries]) -> LineChart:
    """A chart of at least one series, each with at least one value. All values are finite.

    A series of more than MOST_POINTS is drawn as means of as many bins.
    """
    low = min(min(each.values) for each in series)
    high = max(max(each.values) for each in series)
    low, high = _with_room(low, high)
    first = min(each.steps[0] for each in series)
    last = max(max(each.steps[-1] for each in series), first + 1)

    def x(step: float) -> float:
        return LEFT + (RIGHT - LEFT) * (step - first) / (last - first)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    lines = tuple(
        DrawnLine(
            each.label,
            each.colour,
            tuple(Dot(x(step), y(value), name, number(value)) for name, step, value in thinned(each)),
        )
        for each in series
    )
    whole = sorted({round(step) for step in ticks(first, last, 5)})
    return LineChart(
        title,
        lines,
        tuple(Tick(x(step), str(step)) for step in whole),
        tuple(Tick(y(value), short(value)) for value in ticks(low, high)),
        "; ".join(_in_words(each) for each in series),
    )


def _with_room(low: float, high: float) -> tuple[float, float]:
    """A range with some room; of equal values one around them."""
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _in_words(series: NamedSeries) -> str:
    values, steps = series.values, series.steps
    if len(values) == 1:
        return f"{series.label}: {number(values[0])} at step {steps[0]}"
    return f"{series.label}: {number(values[0])} at step {steps[0]}, {number(values[-1])} at step {steps[-1]}"


def thinned(series: NamedSeries, most: int = MOST_POINTS) -> list[tuple[str, float, float]]:
    """(name of the step or steps, middle step, mean value) of each bin; a short series has bins of one.

    >>> thinned(NamedSeries("a", 0, (0, 1, 2, 3), (1.0, 3.0, 5.0, 7.0)), most=2)
    [('0 to 1', 0.5, 2.0), ('2 to 3', 2.5, 6.0)]
    """
    count = len(series.values)
    bins = min(count, most)
    found: list[tuple[str, float, float]] = []
    for place in range(bins):
        start, stop = place * count // bins, (place + 1) * count // bins
        steps = series.steps[start:stop]
        name = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        found.append((name, (steps[0] + steps[-1]) / 2, fmean(series.values[start:stop])))
    return found


def stacked_chart(
    title: str, x_label: str, legend: Sequence[str], bars: Sequence[Parts], *, unit: str, top: float | None = None
) -> StackedChart:
    """A chart of at least one bar. Values are not negative; `unit` stands behind them in words, `top` is the axis' end.

    Of many bars only some have their labels below them.
    """
    highest = top or max(sum(bar.values) for bar in bars) or 1.0
    space = (RIGHT - LEFT) / len(bars)
    every = -(-len(bars) // 8)
    drawn: list[StackedBar] = []
    for place, bar in enumerate(bars):
        segments: list[BarPart] = []
        foot = 0.0
        for colour, (name, value) in enumerate(zip(legend, bar.values, strict=True)):
            height = (BOTTOM - TOP) * value / highest
            if value > 0:
                text = f"{bar.label}: {name} {number(value)} {unit}".rstrip()
                segments.append(BarPart(colour, BOTTOM - foot - height, height, text))
            foot += height
        label = bar.label if place % every == 0 else ""
        drawn.append(StackedBar(LEFT + space * (place + 0.1), space * 0.8, label, tuple(segments)))
    marks = tuple(Tick(BOTTOM - (BOTTOM - TOP) * value / highest, short(value)) for value in ticks(0.0, highest))
    last = bars[-1]
    said = ", ".join(f"{n} {number(v)}" for n, v in zip(legend, last.values, strict=True) if v > 0)
    return StackedChart(title, x_label, tuple(legend), tuple(drawn), marks, f"{last.label}, in {unit}: {said}")


def binned(labels: Sequence[int], rows: Sequence[Sequence[float]], most: int = MOST_BARS) -> list[Parts]:
    """Bars of steps: at most `most`, each the mean of its steps.

    >>> binned([1, 2, 3, 4], [[1.0], [3.0], [5.0], [7.0]], most=2)
    [Parts(label='1 to 2', values=(2.0,)), Parts(label='3 to 4', values=(6.0,))]
    """
    count = len(rows)
    bins = min(count, most)
    found: list[Parts] = []
    for place in range(bins):
        start, stop = place * count // bins, (place + 1) * count // bins
        names = labels[start:stop]
        name = str(names[0]) if len(names) == 1 else f"{names[0]} to {names[-1]}"
        found.append(Parts(name, tuple(fmean(column) for column in zip(*rows[start:stop], strict=True))))
    return found
