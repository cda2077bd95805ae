"""Assistive robot: the target's box and a depth image become a goal in the robot's own frame, or "I am not sure".

python -m examples.robot.run [PHOTO...] [--model DIR]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.shared import read_arguments
from orchestrator.evaluation.answers import Answer
from orchestrator.pointer import LocalPointer
from pointing.geometry import Box

SURE = 0.5  # share of the draws that must agree before an arm moves
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera: focal length and centre in pixels; `to_robot` is the 4 x 4 pose of the camera in the robot's
    frame (metres; camera: x right, y down, z forward; robot: x forward, y left, z up).
    """

    focal: float
    centre: tuple[float, float]
    to_robot: FloatArray


def goal(box: Box, depth: FloatArray, camera: Camera) -> FloatArray | None:
    """Where the object is: (x, y, z) in metres in the robot's frame. `depth` is (height, width) in metres, 0: unknown.

    The depth is the median within the middle half of the box, which the background reaches least. None where nothing of
    it is known.
    """
    left, top, right, bottom = box
    across, down = (right - left) / 4, (bottom - top) / 4
    rows = slice(int(top + down), max(int(bottom - down), int(top + down) + 1))
    columns = slice(int(left + across), max(int(right - across), int(left + across) + 1))
    known = depth[rows, columns]
    known = known[known > 0]
    if not known.size:
        return None
    forward = float(np.median(known))
    u, v = (left + right) / 2 - camera.centre[0], (top + bottom) / 2 - camera.centre[1]
    point = np.array([u * forward / camera.focal, v * forward / camera.focal, forward, 1.0])
    return (camera.to_robot @ point)[:3]


def decision(answer: Answer, depth: FloatArray, camera: Camera) -> str:
    """What the robot does."""
    if answer.target is None:
        return "stay: nobody points"
    if answer.confidence is not None and answer.confidence < SURE:
        return f'say "I am not sure": {answer.confidence:.0%} of the draws agree'
    found = goal(answer.target, depth, camera)
    if found is None:
        return 'say "I cannot see how far that is"'
    return "move to x {:.2f} m, y {:.2f} m, z {:.2f} m".format(*found)


# On a head 1.2 m high that looks straight ahead: the camera's z is the robot's x, its x is -y, its y is -z.
HEAD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]])


def main() -> None:
    given = read_arguments(__doc__ or "", "robot")
    for answer in LocalPointer(given.model, samples=4).ask(given.photos):
        with Image.open(answer.image) as photo:
            width, height = photo.size
        # A table that stands slanted: 0.8 m away at the bottom, 1.6 m at the top. A robot has a depth camera here.
        depth = np.broadcast_to(np.linspace(1.6, 0.8, height)[:, None], (height, width))
        camera = Camera(float(width), (width / 2, height / 2), HEAD)
        print(f"{answer.line()}\n    -> {decision(answer, depth, camera)}")


if __name__ == "__main__":
    main()
