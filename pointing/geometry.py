"""Plane geometry of boxes, points and rays. Pure arithmetic on floats: no frame, no I/O, nothing raises.

Points are (x, y) and boxes (x1, y1, x2, y2), x to the right and y down, all in one frame of the caller's choice.
"""

from __future__ import annotations

import math

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Segment = tuple[Point, Point]

SHORTEST = 1e-8  # a ray or a diagonal not longer than this has no direction and no scale


def clamp(value: float, low: float, high: float) -> float:
    """`value` limited to [low, high]; NaN becomes `low` (max and min alone would turn it into `high`)."""
    if value >= high:
        return high
    return value if value > low else low


def iou(a: Box, b: Box) -> float:
    """Intersection over union in [0, 1]. Corners may come in any order; an empty or non-finite union gives 0.

    >>> iou((0, 0, 2, 2), (3, 3, 1, 1))
    0.14285714285714285
    """
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    if ax1 > ax2:
        ax1, ax2 = ax2, ax1
    if ay1 > ay2:
        ay1, ay2 = ay2, ay1
    if bx1 > bx2:
        bx1, bx2 = bx2, bx1
    if by1 > by2:
        by1, by2 = by2, by1
    width = (ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)
    height = (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
    common = width * height if width > 0 and height > 0 else 0.0
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - common
    if not union > 0:  # or NaN; an infinite one ends in 0 below, clamped where it is NaN
        return 0.0
    return clamp(common / union, 0.0, 1.0)


def area(box: Box) -> float:
    """Area of a box whose corners may come in any order."""
    return abs(box[2] - box[0]) * abs(box[3] - box[1])


def diagonal(box: Box) -> float:
    """Length of a box's diagonal."""
    return math.hypot(box[2] - box[0], box[3] - box[1])


def distance(a: Point, b: Point) -> float:
    """Euclidean distance."""
    return math.hypot(a[0] - b[0], a[1] - b[1])


def angle(a: Segment, b: Segment) -> float | None:
    """Angle between the directions of two rays in radians, in [0, pi].

    None if either ray is too short to have a direction or a coordinate is too large to measure.

    >>> angle(((0, 0), (1, 0)), ((5, 5), (5, 9)))
    1.5707963267948966
    """
    (ax, ay), (bx, by) = a
    (cx, cy), (dx, dy) = b
    ux, uy, vx, vy = bx - ax, by - ay, dx - cx, dy - cy
    first, second = math.hypot(ux, uy), math.hypot(vx, vy)
    if not (first > SHORTEST and second > SHORTEST):
        return None
    cosine = (ux * vx + uy * vy) / (first * second)
    if not math.isfinite(cosine):
        return None
    return math.acos(clamp(cosine, -1.0, 1.0))


def clip_segment(start: Point, end: Point, width: float, height: float) -> Segment | None:
    """The part of a segment inside [0, width] x [0, height], or None if no part is (Liang and Barsky, 1984).

    Direction is kept. A coordinate that is not finite gives None.

    >>> clip_segment((5.0, 5.0), (5.0, 50.0), 10.0, 10.0)
    ((5.0, 5.0), (5.0, 10.0))
    """
    if not all(map(math.isfinite, (*start, *end))):
        return None
    dx, dy = end[0] - start[0], end[1] - start[1]
    enter, leave = 0.0, 1.0
    for step, room in ((-dx, start[0]), (dx, width - start[0]), (-dy, start[1]), (dy, height - start[1])):
        if step == 0:
            if room < 0:
                return None
        elif step < 0:
            enter = max(enter, room / step)
        else:
            leave = min(leave, room / step)
    if enter > leave:
        return None
    first = (start[0] + enter * dx, start[1] + enter * dy) if enter > 0 else start
    last = (start[0] + leave * dx, start[1] + leave * dy) if leave < 1 else end
    # Rounding may leave either just outside.
    return (
        (clamp(first[0], 0.0, width), clamp(first[1], 0.0, height)),
        (clamp(last[0], 0.0, width), clamp(last[1], 0.0, height)),
    )


def ray_misses_by(ray: Segment, box: Box) -> float | None:
    """The angle in radians by which a ray, prolonged without end, passes beside a box: 0 where it meets it.

    Corners may come in any order. None if the ray is too short to have a direction or a coordinate is too large.

    >>> ray_misses_by(((0, 0), (1, 0)), (5, 5, 6, 9))
    0.6947382761967031
    """
    x, y = ray[0]
    left, right = min(box[0], box[2]), max(box[0], box[2])
    top, bottom = min(box[1], box[3]), max(box[1], box[3])
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    angles = [angle(ray, ((x, y), corner)) for corner in corners if distance((x, y), corner) > SHORTEST]
    known = [each for each in angles if each is not None]
    if len(known) < len(angles):
        return None
    if len(angles) < len(corners) or (left <= x <= right and top <= y <= bottom):
        return 0.0  # it starts at a corner or inside
    # Seen from outside, a box spans less than half a turn, and its corners bound it.
    return 0.0 if _crosses(ray, (left, top, right, bottom)) else min(known)


def _crosses(ray: Segment, box: Box) -> bool:
    """Whether the half-line of a ray meets a box (the method of slabs)."""
    (x, y), (end_x, end_y) = ray
    enter, leave = 0.0, math.inf
    for start, step, low, high in ((x, end_x - x, box[0], box[2]), (y, end_y - y, box[1], box[3])):
        if step == 0:
            if not low <= start <= high:
                return False
            continue
        first, last = sorted(((low - start) / step, (high - start) / step))
        enter, leave = max(enter, first), min(leave, last)
    return enter <= leave
