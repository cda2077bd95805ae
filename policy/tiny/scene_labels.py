"""Labels of a whole synthetic scene, asked of every visual token: where hand, finger and target lie seen from its cell.

    Scene --> per cell: the way to each box and point, the target's colour and shape, and whether a hand points at all

The vision towers of these families know where patches lie relative to one another and not where they lie in the image,
so places are asked relative to the cell. A language model then finds the answer in any token it looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointing.scenes import COLOURS, SHAPES, Scene

PLACES = 3  # hand box, finger (base and tip), target box: four numbers each
SIZES = {"places": 4 * PLACES, "colour": len(COLOURS), "shape": len(SHAPES), "negative": 1}
UNIT = 40 / 28  # cells: about the spread of the ways
PLACE_WEIGHT, CLASS_WEIGHT, SMOOTH = 3.0, 0.3, 0.05


@dataclass(frozen=True, slots=True)
class SceneLabels:
    """Labels of a batch of B images, P of them positive. Lengths are in cells, from the image's upper left corner.

    `colour` and `shape` are those of the target.
    """

    positive: Tensor  # [B] bool
    places: Tensor  # [P, 3, 4]
    colour: Tensor  # [P]
    shape: Tensor  # [P]


def label_scenes(scenes: Sequence[Scene], cells: int) -> SceneLabels:
    """Labels for images of the scenes cut into `cells` x `cells` tokens."""
    places: list[list[float]] = []
    for scene in scenes:
        if scene.negative:
            continue
        hand, points = scene.truth.hand_bbox, scene.truth.pointing_keypoints
        assert hand is not None
        assert points is not None
        values = (*hand, *points[0], *points[1], *scene.objects[0].box)
        places.append([value * cells / scene.image.width for value in values])
    targets = [scene.objects[0] for scene in scenes if not scene.negative]
    return SceneLabels(
        positive=torch.tensor([not scene.negative for scene in scenes]),
        places=torch.tensor(places).reshape(-1, PLACES, 4),
        colour=torch.tensor([COLOURS.index(target.colour) for target in targets], dtype=torch.long),
        shape=torch.tensor([SHAPES.index(target.shape) for target in targets], dtype=torch.long),
    )


def ways(places: Tensor, cells: int) -> Tensor:
    """From the centre of every cell to the places [P, 3, 4], in units: [P, cells x cells, 3, 4], cells in raster order.

    >>> ways(torch.full((1, 3, 4), 0.5), 2)[0, :2, 0, 0].mul(UNIT)
    tensor([ 0., -1.])
    """
    line, column = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    centre = torch.stack([column, line, column, line], -1).reshape(1, cells * cells, 1, 4) + 0.5
    return (places[:, None] - centre) / UNIT


class SceneHead(nn.Module):
    """One linear layer from a visual token to what it should know of the scene. Thrown away after the grounding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(SIZES.values()))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """[n, width] -> for each key of SIZES, [n, size]."""
        return dict(zip(SIZES, self.linear(tokens).split(list(SIZES.values()), -1), strict=True))


def scene_loss(said: dict[str, Tensor], truth: SceneLabels, cells: int) -> Tensor:
    """Mean over all cells; what concerns hand and target over the cells of positives alone."""
    n = cells * cells
    by_image = {key: value.unflatten(0, (-1, n)) for key, value in said.items()}
    negative = (~truth.positive).float()[:, None].expand(-1, n)
    loss = F.binary_cross_entropy_with_logits(by_image["negative"].squeeze(-1), negative)
    if not len(truth.places):  # a batch of negatives
        return loss
    places = by_image["places"][truth.positive].unflatten(-1, (PLACES, 4))
    loss = loss + PLACE_WEIGHT * PLACES * F.smooth_l1_loss(places, ways(truth.places, cells), beta=SMOOTH)
    for key, classes in (("colour", truth.colour), ("shape", truth.shape)):
        logits = by_image[key][truth.positive].flatten(0, 1)
        loss = loss + CLASS_WEIGHT * F.cross_entropy(logits, classes.repeat_interleave(n))
    return loss
