"""Whether ground truth makes sense on its image: sizes, places, and the unit of its coordinates."""

from __future__ import annotations

from collections.abc import Iterator

from pointing.coordinates import Size
from schemas.row_problem import FieldError, shown
from schemas.task import GroundTruth, Point

_IN_PIXELS = "ground truth is in pixels of the file as it is, turned upright"


def check_truth(truth: GroundTruth, size: Size, field: str) -> None:
    """Raises the first of `truth_errors`, if there is any."""
    for error in truth_errors(truth, size, field):
        raise error


def truth_errors(truth: GroundTruth, size: Size, field: str) -> Iterator[FieldError]:
    """What cannot be meant in ground truth on a first image of `size`, in pixels.

    A box without area, or with corners in another order than left, top, right, bottom; a ray or finger without length;
    coordinates that all lie between 0 and 1, shares of the image's sides as other formats have them (then nothing else
    is looked at); and a box, a keypoint, or where the ray starts, outside the image. There a hundredth of each side is
    allowed for rounding: coordinates of a resized copy are the usual cause.
    """
    points = _points(truth)
    if points and all(0 <= value <= 1 for _, point in points for value in point):
        name, point = points[-1]
        remedy = "multiply by the image's width and height"
        yield FieldError(f"{field}.{name}", f"looks like shares of the image's sides; {_IN_PIXELS}", remedy, str(point))
        return
    for name, box in (("hand_bbox", truth.hand_bbox), ("obj_bbox", truth.obj_bbox)):
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            remedy = "write [left, top, right, bottom]"
            yield FieldError(f"{field}.{name}", "is a box without area", remedy, shown(list(box)))
    ray, finger = truth.pointing_ray, truth.pointing_keypoints
    if ray is not None and ray.start == ray.end:
        yield FieldError(f"{field}.pointing_ray", "has no length", "give two different points", shown(list(ray.start)))
    if finger is not None and finger[0] == finger[1]:
        remedy = "give two different points"
        yield FieldError(f"{field}.pointing_keypoints", "are one point twice", remedy, shown(list(finger[0])))
    spare_x, spare_y = max(2.0, size.width / 100), max(2.0, size.height / 100)
    said: set[str] = set()
    for name, (x, y) in points:
        inside = -spare_x <= x <= size.width + spare_x and -spare_y <= y <= size.height + spare_y
        if name != "pointing_ray.end" and not inside and name not in said:
            said.add(name)  # of both corners of a box the first is enough
            reason = f"lies outside the image of {size.width}x{size.height}"
            yield FieldError(f"{field}.{name}", reason, _IN_PIXELS, f"({x:g}, {y:g})")


def _points(truth: GroundTruth) -> list[tuple[str, Point]]:
    """Every point, with its key."""
    points: list[tuple[str, Point]] = []
    for name, box in (("hand_bbox", truth.hand_bbox), ("obj_bbox", truth.obj_bbox)):
        if box is not None:
            points += [(name, box[:2]), (name, box[2:])]
    points += [("pointing_keypoints", point) for point in truth.pointing_keypoints or ()]
    if truth.pointing_ray is not None:
        points += [("pointing_ray.start", truth.pointing_ray.start), ("pointing_ray.end", truth.pointing_ray.end)]
    return points
