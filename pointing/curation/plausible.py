"""What ground truth can mean, yet hardly does: a ray that misses its target, a finger away from its hand.

`truth_check` refuses what cannot be meant; this looks at how the parts lie to one another. The bounds are wide, because
people annotate by eye: what exact scenes and careful photographs have is never spoken of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pointing.coordinates import Size
from pointing.curation.finding import Finding, Kind
from pointing.failures import RAY_DEGREES
from pointing.geometry import Box, Point, angle, area, diagonal, iou, ray_misses_by
from schemas.row_problem import RowProblem, Severity, shown
from schemas.task import GroundTruth

FINGER_DEGREES = 60.0  # between finger and ray
SAME_BOX = 0.95  # IoU
WHOLE_IMAGE = 0.98  # share of the area
LEAST_SIDE = 2.0  # pixels


def doubts(truth: GroundTruth, size: Size, field: str, file: str, line: int) -> Iterator[Finding]:
    """Everything doubtful in the ground truth of one positive on a first image of `size`; nothing of a negative.

    `field` is its key in the row, `file` and `line` its place. A ray that misses by more than RAY_DEGREES is an error,
    for it teaches the wrong way; the rest are warnings.
    """

    def found(
        kind: Kind, part: str, value: object, reason: str, remedy: str, severity: Severity = "warning"
    ) -> Finding:
        return Finding(kind, RowProblem(file, line, f"{field}.{part}", shown(value), reason, remedy, severity))

    hand, target, ray, finger = truth.hand_bbox, truth.obj_bbox, truth.pointing_ray, truth.pointing_keypoints
    if ray is not None and target is not None:
        missed = ray_misses_by((ray.start, ray.end), target)
        if missed:
            degrees = math.degrees(missed)
            reason = f"passes {degrees:.3g} degrees beside obj_bbox {shown(list(target))}"
            severity: Severity = "error" if degrees > RAY_DEGREES else "warning"
            yield found("ray", "pointing_ray", [ray.start, ray.end], reason, "correct either of them", severity)
    if ray is not None and finger is not None:
        between = angle(finger, (ray.start, ray.end))
        if between is not None and math.degrees(between) > FINGER_DEGREES:
            reason = f"point {math.degrees(between):.0f} degrees away from pointing_ray"
            yield found("finger", "pointing_keypoints", list(finger), reason, "write [base, tip], and check the ray")
    if hand is not None:
        for part, point in (("pointing_keypoints[1]", finger and finger[1]), ("pointing_ray.start", ray and ray.start)):
            if point is not None and _apart(point, hand) > diagonal(hand) / 2:
                reason = f"is far from hand_bbox {shown(list(hand))}"
                yield found("finger", part, point, reason, "the fingertip lies in the hand box or at its edge")
    if hand is not None and target is not None and iou(hand, target) > SAME_BOX:
        yield found("box", "obj_bbox", list(target), "is the hand box", "give the box of what is pointed at")
    for part, box in (("hand_bbox", hand), ("obj_bbox", target)):
        if box is None:
            continue
        if area(box) >= WHOLE_IMAGE * size.area:
            yield found("box", part, list(box), "is the whole image", "draw it tightly round the thing itself")
        elif min(abs(box[2] - box[0]), abs(box[3] - box[1])) < LEAST_SIDE:
            yield found("box", part, list(box), f"is thinner than {LEAST_SIDE:g} pixels", "draw it again")
    name = truth.obj_name
    if name is not None and (not name.strip() or "<" in name or not name.isprintable()):
        reason = "is empty" if not name.strip() else "holds markup or control characters, which no transcript can say"
        yield found("name", "obj_name", name, reason, "write plain words, or leave it out")


def _apart(point: Point, box: Box) -> float:
    """Distance of a point from a box; 0 inside."""
    (x, y), (left, top, right, bottom) = point, box
    return math.hypot(max(left - x, 0.0, x - right), max(top - y, 0.0, y - bottom))
