"""MediaPipe's hand landmarker over photos: a program of its own, run by Python of an environment that has MediaPipe.

    photos, a path a line --stdin--> this --stdout--> a line each: null, or {"box", "base", "tip", "score"}

Imports nothing of this project. Coordinates are pixels of the photo turned upright.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

BASE, TIP, WRIST, KNUCKLE = 5, 8, 0, 9  # landmarks: index finger's base and tip, wrist, middle finger's base
MARGIN = 0.2  # of the landmarks' extent: they lie inside the hand
LEAST = 0.1  # confidence of a detection; a person looks at all of them

Points = list[tuple[float, float]]


def main() -> None:
    """Reads paths until the end of stdin."""
    import mediapipe  # pyright: ignore[reportMissingImports]
    from PIL import Image, ImageOps

    with mediapipe.solutions.hands.Hands(
        static_image_mode=True, max_num_hands=2, min_detection_confidence=LEAST
    ) as hands:
        for line in sys.stdin:
            with Image.open(json.loads(line)) as opened:
                photo = ImageOps.exif_transpose(opened).convert("RGB")
            print(json.dumps(_proposal(hands, photo)), flush=True)


def _proposal(hands: Any, photo: Any) -> dict[str, Any] | None:
    """The hand whose finger is stretched out most, of the first of several ways to look at the photo that shows any."""
    import numpy

    for changed, back in _looks(photo):
        found = hands.process(numpy.asarray(changed))
        if not found.multi_hand_landmarks:
            continue
        seen: list[Points] = []
        for hand in found.multi_hand_landmarks:
            seen.append([back(point.x * changed.width, point.y * changed.height) for point in hand.landmark])
        best = max(range(len(seen)), key=lambda number: _stretched(seen[number]))
        score = float(found.multi_handedness[best].classification[0].score)
        return _described(seen[best], photo.width, photo.height, score)
    return None


def _looks(photo: Any) -> Iterator[tuple[Any, Callable[[float, float], tuple[float, float]]]]:
    """The photo as it is, smaller in a grey frame (close-ups cut hands off), with more contrast, and turned; each with
    what takes a point of it back to the photo.
    """
    from PIL import ImageOps

    width, height = photo.size
    yield photo, lambda x, y: (x, y)
    for share in (0.25, 0.5):
        border = int(max(photo.size) * share)
        yield ImageOps.expand(photo, border, fill=(127, 127, 127)), lambda x, y, b=border: (x - b, y - b)
    yield ImageOps.autocontrast(photo, cutoff=2), lambda x, y: (x, y)
    yield photo.rotate(90, expand=True), lambda x, y: (width - y, x)
    yield photo.rotate(270, expand=True), lambda x, y: (y, height - x)
    yield photo.rotate(180), lambda x, y: (width - x, height - y)


def _stretched(points: Points) -> float:
    def distance(a: int, b: int) -> float:
        return ((points[a][0] - points[b][0]) ** 2 + (points[a][1] - points[b][1]) ** 2) ** 0.5

    return distance(BASE, TIP) / max(distance(WRIST, KNUCKLE), 1e-6)


def _described(points: Points, width: int, height: int, score: float) -> dict[str, Any]:
    def inside(x: float, y: float) -> list[float]:
        return [round(min(max(x, 0), width), 1), round(min(max(y, 0), height), 1)]

    xs, ys = [x for x, _ in points], [y for _, y in points]
    across, down = MARGIN * (max(xs) - min(xs)), MARGIN * (max(ys) - min(ys))
    corners = inside(min(xs) - across, min(ys) - down) + inside(max(xs) + across, max(ys) + down)
    return {"box": corners, "base": inside(*points[BASE]), "tip": inside(*points[TIP]), "score": score}


if __name__ == "__main__":
    main()
