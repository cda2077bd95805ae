"""Places on a drawing: worked by hand, and always inside the plot."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report import charts
from orchestrator.report.charts import NamedSeries, Parts, binned, line_chart, number, stacked_chart, thinned, ticks

_finite = st.floats(-1e12, 1e12)


def test_a_line_runs_from_corner_to_corner() -> None:
    """Steps 0 and 10 are the plot's sides; the room above and below is 6 % of the range."""
    chart = line_chart("reward", [NamedSeries("training", 0, (0, 10), (2.0, 4.0))])
    first, last = chart.lines[0].dots
    assert (first.x, last.x) == (charts.LEFT, charts.RIGHT)
    height = charts.BOTTOM - charts.TOP
    assert first.y == pytest.approx(charts.BOTTOM - height * 0.12 / 2.24)
    assert last.y == pytest.approx(charts.TOP + height * 0.12 / 2.24)
    assert chart.lines[0].points.startswith(f"{charts.LEFT:.1f},")
    assert chart.summary == "training: 2 at step 0, 4 at step 10"
    assert [tick.label for tick in chart.y_ticks] == ["2", "2.5", "3", "3.5", "4"]
    assert [tick.label for tick in chart.x_ticks] == ["0", "2", "4", "6", "8", "10"]


@given(st.lists(st.lists(_finite, min_size=1, max_size=300), min_size=1, max_size=3), st.integers(0, 50))
def test_every_dot_and_tick_lies_in_the_plot(lines: list[list[float]], start: int) -> None:
    series = [NamedSeries("a", 0, range(start, start + len(values)), values) for values in lines]
    chart = line_chart("any", series)
    dots = [dot for line in chart.lines for dot in line.dots]
    assert len(chart.lines) == len(lines)
    assert all(len(line.dots) <= charts.MOST_POINTS for line in chart.lines)
    assert all(charts.LEFT - 1e-6 <= dot.x <= charts.RIGHT + 1e-6 for dot in dots)
    assert all(charts.TOP - 1e-6 <= dot.y <= charts.BOTTOM + 1e-6 for dot in dots)
    assert all(charts.TOP - 0.1 <= tick.at <= charts.BOTTOM + 0.1 for tick in chart.y_ticks)


@given(_finite, st.floats(1e-6, 1e9))
def test_ticks_are_few_even_and_inside(low: float, width: float) -> None:
    high = low + width
    found = ticks(low, high)
    if high > low and width > 1e-6 * abs(low):
        assert 1 <= len(found) <= 8
        assert all(low - 1e-6 * width <= value <= high + 1e-6 * width for value in found)
        gaps = [b - a for a, b in pairwise(found)]
        assert all(gap == pytest.approx(gaps[0], rel=1e-3) for gap in gaps)


@given(st.integers(1, 1000), st.integers(1, 130))
def test_thinning_keeps_every_step_and_the_mean(count: int, most: int) -> None:
    series = NamedSeries("a", 0, range(count), [float(step % 7) for step in range(count)])
    found = thinned(series, most)
    assert len(found) == min(count, most)
    ends = [[int(end) for end in name.split(" to ")] for name, _, _ in found]
    assert ends[0][0] == 0
    assert ends[-1][-1] == count - 1
    assert all(a[-1] + 1 == b[0] for a, b in pairwise(ends))
    whole = sum(value * (end[-1] - end[0] + 1) for (_, _, value), end in zip(found, ends, strict=True))
    assert whole == pytest.approx(sum(series.values))


def test_bars_stand_on_one_another() -> None:
    chart = stacked_chart("time", "step", ["a", "b"], [Parts("0", (3.0, 1.0)), Parts("1", (0.0, 2.0))], unit="s")
    height = charts.BOTTOM - charts.TOP
    low, high = chart.bars[0].segments
    assert (low.y + low.height, low.height) == pytest.approx((charts.BOTTOM, height * 3 / 4))
    assert (high.y + high.height, high.height) == pytest.approx((low.y, height / 4))
    [only] = chart.bars[1].segments  # a part of 0 is not drawn, and keeps the others' colours
    assert (only.colour, only.y + only.height) == (1, pytest.approx(charts.BOTTOM))
    assert low.text == "0: a 3 s"
    assert chart.summary == "1, in s: b 2"


def test_many_bars_become_means_and_keep_some_labels() -> None:
    bars = binned(range(100), [[float(step)] for step in range(100)])
    assert len(bars) == charts.MOST_BARS
    assert bars[0].label == "0 to 1"
    chart = stacked_chart("time", "step", ["a"], bars, unit="s")
    assert 4 <= sum(bar.label != "" for bar in chart.bars) <= 8


@given(st.one_of(st.floats(-1e300, 1e300), st.sampled_from([math.nan, math.inf, -math.inf])))
def test_a_number_for_people_is_short_and_close(value: float) -> None:
    text = number(value)
    assert len(text) <= 21
    if math.isfinite(value):
        assert float(text.replace(",", "")) == pytest.approx(value, rel=1e-2)
    else:
        assert text == "-"
