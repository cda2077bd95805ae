"""Dense labels of a synthetic scene: what each visual token should know of its cell of the image.

    Scene --> per cell: palm, fingertip, target or any object here? --> where its box or points lie, colour, shape

A cell is the square of pixels that becomes one visual token. A thing belongs to the cell of its centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointing.scenes import COLOURS, SHAPES, Scene
from schemas.task import Box, Point

PALM, TIP, TARGET, OBJECT = range(4)
N_PRESENT = 4
SIZES = {
    "present": N_PRESENT,
    "hand": 4,
    "finger": 4,
    "object": 4,
    "colour": len(COLOURS),
    "shape": len(SHAPES),
}
CLASS_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class CellLabels:
    """Labels of a batch of images with C cells each; `*_at` are rows of the flattened [B x C] cells.

    Boxes are (x1, y1, x2, y2) and fingers (base x, y, tip x, y), relative to their cell's upper left corner, in cells.
    """

    present: Tensor  # [B x C, 4], 0 or 1
    hand_at: Tensor
    hand: Tensor
    finger_at: Tensor
    finger: Tensor
    object_at: Tensor
    object: Tensor
    colour: Tensor
    shape: Tensor


Placed = tuple[int, list[float]]  # a flat cell, and four values relative to it


def label(scenes: Sequence[Scene], cells: int) -> CellLabels:
    """Labels for images of the scenes cut into `cells` x `cells` tokens, in raster order."""
    present = torch.zeros(len(scenes) * cells * cells, N_PRESENT)
    hands: list[Placed] = []
    fingers: list[Placed] = []
    objects: list[Placed] = []
    for row, scene in enumerate(scenes):
        place = partial(_place, first=row * cells * cells, size=scene.image.width / cells, cells=cells)
        placed = [place(thing.box, _centre(thing.box)) for thing in scene.objects]
        objects += placed
        if scene.negative:
            continue
        present[placed[0][0], TARGET] = 1
        hand, points = scene.truth.hand_bbox, scene.truth.pointing_keypoints
        assert hand is not None
        assert points is not None
        hands.append(place(hand, _centre(hand)))
        fingers.append(place((*points[0], *points[1]), points[1]))
    for found, kind in ((hands, PALM), (fingers, TIP), (objects, OBJECT)):
        present[[at for at, _ in found], kind] = 1
    things = [thing for scene in scenes for thing in scene.objects]
    return CellLabels(
        present,
        *_columns(hands),
        *_columns(fingers),
        *_columns(objects),
        colour=torch.tensor([COLOURS.index(thing.colour) for thing in things]),
        shape=torch.tensor([SHAPES.index(thing.shape) for thing in things]),
    )


def _centre(box: Box) -> Point:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _place(values: Box, point: Point, first: int, size: float, cells: int) -> Placed:
    """The cell of a point, and `values` (x, y, x, y) relative to it; `first` is the image's first cell."""
    column, line = (min(cells - 1, max(0, int(v / size))) for v in point)
    corner = (column, line, column, line)
    return first + line * cells + column, [v / size - c for v, c in zip(values, corner, strict=True)]


def _columns(found: list[Placed]) -> tuple[Tensor, Tensor]:
    at = torch.tensor([at for at, _ in found], dtype=torch.long)
    return at, torch.tensor([values for _, values in found]).reshape(-1, 4)


class CellHead(nn.Module):
    """One linear layer from a visual token to what it should know. It serves the grounding and is then thrown away."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(SIZES.values()))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """[n, width] -> for each key of SIZES, [n, size]."""
        return dict(zip(SIZES, self.linear(tokens).split(list(SIZES.values()), -1), strict=True))


def cell_loss(said: dict[str, Tensor], truth: CellLabels, n_images: int) -> Tensor:
    """Presence summed over an image's cells and averaged over images; the rest averaged over the things there are."""
    presence = F.binary_cross_entropy_with_logits(said["present"], truth.present, reduction="sum") / n_images
    losses = [presence]
    for key, at, where in (
        ("hand", truth.hand_at, truth.hand),
        ("finger", truth.finger_at, truth.finger),
        ("object", truth.object_at, truth.object),
    ):
        if len(at):  # a batch may hold negatives alone
            losses.append(F.smooth_l1_loss(said[key][at], where, beta=0.1))
    for key, classes in (("colour", truth.colour), ("shape", truth.shape)):
        losses.append(CLASS_WEIGHT * F.cross_entropy(said[key][truth.object_at], classes))
    return torch.stack(losses).sum()
