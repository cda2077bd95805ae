"""Geometry against numbers worked by hand, counted pixels and sampled segments."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pointing.geometry import angle, area, clamp, clip_segment, diagonal, distance, iou, ray_misses_by

coordinate = st.integers(-12, 12)
box = st.tuples(coordinate, coordinate, coordinate, coordinate)
point = st.tuples(coordinate, coordinate)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),
        ((10, 10, 0, 0), (15, 0, 5, 10), 50 / 150),  # corners in any order
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # they touch
        ((0, 0, 10, 10), (2, 2, 4, 4), 4 / 100),
        ((3, 3, 3, 3), (3, 3, 3, 3), 0.0),  # the union is empty
        ((0, 0, 10, 0), (0, 0, 10, 10), 0.0),
        ((-4, -4, 4, 4), (0, 0, 8, 8), 16 / 112),
    ],
)
def test_iou_by_hand(a, b, expected):
    assert iou(a, b) == pytest.approx(expected, abs=1e-15)
    assert iou(b, a) == iou(a, b)


def cells(box):
    """The unit cells that a box of whole numbers covers."""
    x1, x2 = sorted((box[0], box[2]))
    y1, y2 = sorted((box[1], box[3]))
    grid = np.zeros((30, 30), bool)
    grid[y1 + 15 : y2 + 15, x1 + 15 : x2 + 15] = True
    return grid


@given(box, box)
def test_iou_counts_cells(a, b):
    common, union = (cells(a) & cells(b)).sum(), (cells(a) | cells(b)).sum()
    assert iou(a, b) == pytest.approx(common / union if union else 0.0, abs=1e-12)
    assert area(a) == cells(a).sum()


@given(st.tuples(*[st.floats()] * 4), st.tuples(*[st.floats()] * 4))
@example((0.0, 0.0, math.inf, 1.0), (0.0, 0.0, 1.0, 1.0))
@example((0.0, 0.0, 1e300, 1e300), (0.0, 0.0, 1e300, 1e300))
@example((math.nan, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0))
def test_iou_of_any_floats_is_a_share(a, b):
    assert 0.0 <= iou(a, b) <= 1.0


def test_iou_of_unmeasurable_boxes_is_zero():
    square = (0.0, 0.0, 1.0, 1.0)
    for bad in (math.nan, math.inf, -math.inf):
        for place in range(4):
            broken = (*square[:place], bad, *square[place + 1 :])
            assert iou(square, broken) == iou(broken, square) == 0.0


def test_lengths():
    assert diagonal((1, 1, 4, 5)) == diagonal((4, 5, 1, 1)) == 5
    assert distance((1, 1), (4, 5)) == 5
    assert area((5, 0, 0, 3)) == 15


@pytest.mark.parametrize(
    ("direction", "degrees"),
    [((2, 0), 0), ((1, 1), 45), ((0, 3), 90), ((-1, 1), 135), ((-7, 0), 180), ((0, -1), 90), ((1, -1), 45)],
)
def test_angle_by_hand(direction, degrees):
    found = angle(((3.0, 4.0), (8.0, 4.0)), ((1.0, 1.0), (1.0 + direction[0], 1.0 + direction[1])))
    assert found is not None
    assert math.degrees(found) == pytest.approx(degrees, abs=1e-9)


@given(point, point, point, point)
def test_angle_agrees_with_headings(a, b, c, d):
    assume(a != b and c != d)
    turn = math.atan2(b[1] - a[1], b[0] - a[0]) - math.atan2(d[1] - c[1], d[0] - c[0])
    expected = abs((turn + math.pi) % (2 * math.pi) - math.pi)
    assert angle((a, b), (c, d)) == pytest.approx(expected, abs=1e-6)


def test_angle_needs_two_directions():
    ray = ((0.0, 0.0), (1.0, 0.0))
    assert angle(ray, ((5.0, 5.0), (5.0, 5.0))) is None
    assert angle(((0.0, 0.0), (1e-8, 0.0)), ray) is None
    assert angle(((0.0, 0.0), (1.1e-8, 0.0)), ray) == 0.0
    assert angle(ray, ((0.0, 0.0), (math.inf, 1.0))) is None
    assert angle(ray, ((0.0, math.nan), (1.0, 1.0))) is None
    assert angle(((0.0, 0.0), (1e200, 0.0)), ((0.0, 0.0), (1e200, 0.0))) is None  # too large to measure


def test_clamp_sends_nan_to_the_low_end():
    assert clamp(math.nan, 0.0, 1.0) == 0.0
    assert (clamp(-1.0, 0.0, 1.0), clamp(0.25, 0.0, 1.0), clamp(math.inf, 0.0, 1.0)) == (0.0, 0.25, 1.0)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ((2, 3), (8, 9), ((2, 3), (8, 9))),
        ((5, 5), (5, 50), ((5, 5), (5, 10))),
        ((-5, 5), (15, 5), ((0, 5), (10, 5))),
        ((-5, -5), (15, 15), ((0, 0), (10, 10))),
        ((-4, 4), (4, -4), ((0, 0), (0, 0))),  # it touches a corner
        ((-5, 4), (4, -5), None),  # it passes the corner by
        ((11, 0), (11, 10), None),
        ((10, 0), (10, 10), ((10, 0), (10, 10))),  # along the border
        ((3, 3), (3, 3), ((3, 3), (3, 3))),
        ((30, 30), (30, 30), None),
        ((math.inf, 0), (0, 0), None),
        ((0, 0), (0, math.nan), None),
    ],
)
def test_clip_by_hand(start, end, expected):
    assert clip_segment(start, end, 10, 10) == expected


@given(point, point, st.integers(1, 9), st.integers(1, 9))
def test_clip_keeps_what_sampling_finds_inside(start, end, width, height):
    steps = np.linspace(0, 1, 401)[:, None]
    samples = np.array(start) + steps * (np.array(end) - np.array(start))
    inside = ((samples >= 0) & (samples <= [width, height])).all(1)
    clipped = clip_segment(start, end, width, height)
    if clipped is None:
        assert not inside.any()
        return
    for x, y in clipped:
        assert 0 <= x <= width
        assert 0 <= y <= height
    # The share of samples inside is the share of the length that is kept, and the direction is the same.
    assert distance(*clipped) == pytest.approx(inside.mean() * distance(start, end), abs=distance(start, end) / 100)
    if distance(*clipped) > 1e-3:
        assert angle((start, end), clipped) == pytest.approx(0, abs=1e-5)


@given(*[st.tuples(st.floats(), st.floats())] * 2)
def test_clip_of_any_floats_stays_inside(start, end):
    clipped = clip_segment(start, end, 640, 480)
    assert clipped is None or all(0 <= x <= 640 and 0 <= y <= 480 for x, y in clipped)


@pytest.mark.parametrize(
    ("end", "degrees"),
    [
        ((1, 1), 0.0),  # through the middle
        ((1, 0.5), 0.0),
        ((1, 0), math.degrees(math.atan(5 / 15))),  # under it, nearest the corner (15, 5)
        ((0, 1), math.degrees(math.atan(5 / 15))),
        ((-1, -1), 135 + math.degrees(math.atan(5 / 15))),  # away from it
        ((0, 0), None),
    ],
)
def test_a_ray_misses_a_box_by_the_angle_to_its_nearest_corner(end: tuple[float, float], degrees: float | None) -> None:
    """A box from (5, 5) to (15, 15), seen from the origin."""
    missed = ray_misses_by(((0, 0), end), (15, 5, 5, 15))
    assert (missed if missed is None else math.degrees(missed)) == (degrees and pytest.approx(degrees))


def test_a_ray_that_starts_in_or_at_a_box_meets_it() -> None:
    assert ray_misses_by(((6, 6), (0, 0)), (5, 5, 15, 15)) == 0
    assert ray_misses_by(((5, 5), (0, 0)), (5, 5, 15, 15)) == 0
    assert ray_misses_by(((0, 0), (math.nan, 1)), (5, 5, 15, 15)) is None


@given(st.floats(0, 6.28), st.floats(1, 50), st.floats(1, 50), st.floats(0.5, 30), st.floats(0.5, 30))
def test_a_ray_misses_by_no_more_than_the_angle_to_any_point_of_the_edge(
    heading: float, left: float, top: float, width: float, height: float
) -> None:
    """Against 400 points on each edge, which are less than 0.06 radians apart from the origin."""
    ray = ((0.0, 0.0), (math.cos(heading), math.sin(heading)))
    missed = ray_misses_by(ray, (left, top, left + width, top + height))
    along = np.linspace(0, 1, 400)
    edge = [(left + width * t, y) for t in along for y in (top, top + height)]
    edge += [(x, top + height * t) for t in along for x in (left, left + width)]
    nearest = min(angle(ray, ((0.0, 0.0), point)) or 0.0 for point in edge)
    assert missed is not None
    assert nearest - 0.06 <= missed <= nearest + 1e-7
