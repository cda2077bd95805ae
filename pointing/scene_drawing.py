"""Draws a laid-out scene: shadows, tiles with a lit bevel, and a hand with sleeve, folded fingers and thumb.

    table (grey) x soft shadows -> tinted, enlarged -> arm, tiles, hand drawn with hard edges -> reduced: smooth edges

Every rounded part is the convex hull of circles, drawn as a polygon found by its support function.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pointing.scene_layout import (
    SLEEVE,
    WRIST,
    Box,
    Circle,
    Hand,
    Layout,
    Tile,
    arm,
    border_exit,
    finger,
    folded_fingers,
    hand_parts,
    palm,
    thumb,
)
from pointing.scene_table import table

Colour = tuple[int, int, int]
Points = NDArray[np.complex128]

PAINT: dict[str, Colour] = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (40, 90, 220),
    "yellow": (245, 215, 40),
    "purple": (140, 50, 180),
    "cyan": (60, 205, 215),
}
SKINS: tuple[Colour, ...] = (
    (255, 219, 172),
    (250, 206, 160),
    (241, 194, 125),
    (224, 172, 105),
    (198, 134, 66),
    (172, 110, 60),
    (141, 85, 36),
    (104, 64, 40),
)
SLEEVES: tuple[Colour, ...] = (
    (62, 66, 76),
    (92, 98, 110),
    (128, 128, 132),
    (70, 74, 70),
    (226, 226, 230),
    (46, 46, 54),
)
INK: Colour = (28, 26, 30)
LINE = 0.0045  # outline width, fraction of the side

_NORMALS: Points = np.exp(1j * np.linspace(0.0, 2 * np.pi, 40, endpoint=False))


@dataclass(frozen=True, slots=True)
class Brush:
    """Draws polygons given in fractions of the side onto an image of `scale` pixels a side."""

    draw: ImageDraw.ImageDraw
    scale: float

    def fill(self, points: Points, colour: Colour | int) -> None:
        self.draw.polygon(self._pixels(points), fill=colour)

    def stroke(self, points: Points, width: float, colour: Colour | int) -> None:
        self.draw.line(self._pixels(points), fill=colour, width=max(1, round(width * self.scale)), joint="curve")

    def _pixels(self, points: Points) -> list[float]:
        """x, y, x, y, ... as Pillow draws them, who counts from the middle of the first pixel."""
        return (points * self.scale - (0.5 + 0.5j)).view(np.float64).tolist()


def hull(circles: Sequence[Circle], grow: float = 0.0) -> Points:
    """The outline of the convex hull of circles (fractions of the side), each radius larger by `grow`."""
    centres: Points = np.array([c for c, _ in circles], dtype=np.complex128)
    radii = np.array([r for _, r in circles], dtype=np.float64)
    reach = (centres[:, None] * _NORMALS.conj()).real + radii[:, None]
    furthest = reach.argmax(axis=0)
    return centres[furthest] + (radii[furthest] + grow) * _NORMALS


def tile_outline(tile: Tile) -> Points:
    """The corners of a tile, fractions of the side, before its outline is drawn round them."""
    return tile.centre + tile.radius * cmath.exp(1j * tile.turn) * _UNIT_SHAPES[tile.shape]


def tile_box(tile: Tile) -> Box:
    """(left, top, right, bottom) of a tile with its outline, fractions of the side."""
    points, edge = tile_outline(tile), LINE / 2
    return (
        float(points.real.min()) - edge,
        float(points.imag.min()) - edge,
        float(points.real.max()) + edge,
        float(points.imag.max()) + edge,
    )


def _unit_shapes() -> dict[str, Points]:
    """Corners of each shape inside the unit circle."""

    def polar(n: int, radii: Sequence[float], first: float) -> Points:
        return np.array([cmath.rect(radii[k % len(radii)], first + 2 * math.pi * k / n) for k in range(n)])

    t, up = 0.36, -math.pi / 2
    arm_end = np.array([-t - 1j, t - 1j, t - 1j * t]) * 0.95
    shapes = {
        "circle": polar(64, [0.93], 0.0),
        "square": polar(4, [1.12], math.pi / 4),
        "triangle": polar(3, [1.08], up) + 0.12j,
        "star": polar(10, [1.05, 0.47], up) + 0.03j,
        "diamond": np.array([-1j, 0.82, 1j, -0.82]),
        "cross": np.concatenate([arm_end * 1j**k for k in range(4)]),
    }
    return {name: points.astype(np.complex128) for name, points in shapes.items()}


_UNIT_SHAPES = _unit_shapes()


def paint(layout: Layout, size: int, rng: np.random.Generator) -> Image.Image:
    """The scene as an RGB image of `size` pixels a side. `rng` gives the texture and the light only."""
    grey, tint = table(layout.table, size, rng)
    shaded = ImageChops.multiply(grey, _shadows(layout, size))
    ground = Image.merge("RGB", [shaded.point(levels) for levels in tint])
    finer = 2 if size > 200 else 4  # at small sizes thin lines need more samples a pixel
    canvas = ground.resize((size * finer, size * finer), Image.Resampling.NEAREST)
    brush = Brush(ImageDraw.Draw(canvas), size * finer)
    for tile in layout.tiles:
        paint_tile(brush, tile, layout.light)
    if layout.hand is not None:
        _paint_arm(brush, layout.hand, layout.light)
        _paint_hand(brush, layout.hand, layout.light)
    return canvas.reduce(finer)


def _shadows(layout: Layout, size: int) -> Image.Image:
    """How much light reaches the table, as an "L" image: soft, so drawn at a quarter of the size."""
    small = max(56, size // 4)
    mask = Image.new("L", (small, small), 255)
    brush = Brush(ImageDraw.Draw(mask), small)
    for tile in layout.tiles:
        brush.fill(tile_outline(tile) + 0.016 * layout.light, 150)
    if layout.hand is not None:
        wrist, end = _arm_ends(layout.hand)
        shapes = [hull(part) for part in _placed(layout.hand, hand_parts(layout.hand))]
        shapes.append(hull([(wrist, 0.05), (end, 0.075)]))
        for shape in shapes:
            brush.fill(shape + 0.024 * layout.light, 140)
    soft = mask.filter(ImageFilter.GaussianBlur(small * 0.011))
    return soft.resize((size, size), Image.Resampling.BILINEAR)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def paint_tile(brush: Brush, tile: Tile, light: complex) -> None:
    """A tile with its shaded edge and outline."""
    points, colour = tile_outline(tile), PAINT[tile.colour]
    brush.fill(points, _mix(colour, INK, 0.22))
    middle = complex(points.mean())
    brush.fill(middle + (points - middle) * 0.86 - 0.05 * tile.radius * light, colour)
    brush.stroke(np.append(points, points[:2]), LINE, INK)


def mask_tile(brush: Brush, tile: Tile, value: int) -> None:
    """All that `paint_tile` covers, in one value on an "L" image."""
    points = tile_outline(tile)
    brush.fill(points, value)
    brush.stroke(np.append(points, points[:2]), LINE, value)


def _placed(hand: Hand, parts: Iterable[Sequence[Circle]]) -> list[list[Circle]]:
    """Parts in the hand's own axes, taken to the image's."""
    return [[(hand.place(c), r * hand.length) for c, r in part] for part in parts]


def _arm_ends(hand: Hand) -> tuple[complex, complex]:
    """The wrist, and a point past the border that the arm comes from."""
    wrist, outward = arm(hand)
    return wrist, border_exit(wrist, outward, 0.0, 1.0) + 0.15 * outward


def _paint_arm(brush: Brush, hand: Hand, light: complex) -> None:
    skin, cloth = SKINS[hand.skin], SLEEVES[hand.sleeve]
    wrist, outward = arm(hand)
    _, end = _arm_ends(hand)
    width = WRIST * hand.length
    cuff = wrist + outward * 0.32 * hand.length
    _paint_parts(brush, [[(wrist, width), (cuff + outward * 0.05, width * 1.05)]], skin, light)
    sleeve = [(cuff, outward * 1j * width * SLEEVE[0]), (end, outward * 1j * width * SLEEVE[1])]
    _paint_strip(brush, sleeve, cloth)
    band = [(cuff, outward * 1j * width * 1.34), (cuff + outward * 0.16 * hand.length, outward * 1j * width * 1.34)]
    _paint_strip(brush, band, _mix(cloth, (255, 255, 255), 0.16))


def _paint_strip(brush: Brush, ends: Sequence[tuple[complex, complex]], colour: Colour) -> None:
    """A straight piece of cloth: at each end a point of its axis and the way from there to its edge."""
    (a, to_a), (b, to_b) = ends
    outline = np.array([a + to_a, b + to_b, b - to_b, a - to_a])
    brush.fill(outline, _mix(colour, INK, 0.25))
    brush.fill(np.array([a + to_a * 0.8, b + to_b * 0.8, b - to_b * 0.45, a - to_a * 0.45]), colour)
    brush.stroke(np.append(outline, outline[:2]), LINE, INK)


def _paint_hand(brush: Brush, hand: Hand, light: complex) -> None:
    skin = SKINS[hand.skin]
    below = [palm(hand)] if hand.fist else [palm(hand), finger(hand)]
    groups = [below, *([part] for part in reversed(folded_fingers(hand)))]
    if hand.fist:
        groups.append([finger(hand)])
    if hand.thumb == "out":
        below.extend(thumb(hand))
    else:
        groups.append(list(thumb(hand)))
    for group in groups:
        _paint_parts(brush, _placed(hand, group), skin, light)
    if not hand.fist:
        _paint_nail(brush, hand)


def _paint_parts(brush: Brush, parts: Sequence[Sequence[Circle]], skin: Colour, light: complex) -> None:
    """Parts that melt into one another: one outline round all, then shade, then the lit side."""
    for part in parts:
        brush.fill(hull(part, LINE), _mix(skin, INK, 0.62))
    for part in parts:
        brush.fill(hull(part), _mix(skin, (120, 40, 30), 0.22))
    for part in parts:
        lit = [(c - 0.12 * r * light, 0.84 * r) for c, r in part]
        brush.fill(hull(lit), skin)


def _paint_nail(brush: Brush, hand: Hand) -> None:
    skin = SKINS[hand.skin]
    radius = 0.07 * hand.girth
    middle = 1.0 - 0.15 * hand.girth
    nail = _placed(hand, [[(middle - 0.05 + 0.0j, radius), (middle + 0.04 + 0.0j, radius)]])[0]
    brush.fill(hull(nail, LINE * 0.5), _mix(skin, INK, 0.3))
    brush.fill(hull(nail), _mix(skin, (255, 235, 228), 0.55))
    for along in (0.36, 0.42):
        crease = np.array([hand.place(along - 0.07j), hand.place(along + 0.015 + 0.0j), hand.place(along + 0.07j)])
        brush.stroke(crease, LINE * 0.6, _mix(skin, INK, 0.35))
