"""Where things are in a synthetic scene: tiles on a table, and a hand that points at one of them.

    random.Random(seed) -> negative? -> target and hand -> other tiles off the ray -> Layout

Points are complex numbers (x + iy, y down) and lengths are fractions of the image's side, so that one seed gives the
same scene at every size: adding moves a point, multiplying by a unit number turns it, conjugating mirrors it.
"""

from __future__ import annotations

import cmath
import math
import random
from dataclasses import dataclass

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")

Circle = tuple[complex, float]  # centre, radius
Box = tuple[float, float, float, float]  # left, top, right, bottom

N_SKINS = 8
N_SLEEVES = 6
N_TABLES = 4
BORDER = 0.02  # tiles and hands keep this far from the edge of the image
REACH = 1.15  # no corner of a tile is further from its centre than this many of its radii
RAY_MARGIN = 0.04  # other tiles keep this far from the ray
SLEEVE = (1.28, 1.6)  # half its width at the cuff and at the border, in half widths of the wrist
WRIST = 0.27  # half the wrist's width, in lengths of the index finger
APART = 1.12  # least distance of two tiles, in the sum of their radii
ATTEMPTS = 5000


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """What scenes look like. Lengths are fractions of the side.

    `size` is the side in pixels; `objects` the least and most tiles; `negative` the share of scenes where nothing is
    pointed at, `fist` the share of those that show a closed fist rather than no hand; `radius` half a tile's width;
    `gap` the way from the fingertip to the tile, less that radius; `overlap` the share of scenes in which one pair of
    tiles may overlap.

    >>> SceneOptions(size=112).objects
    (2, 4)
    """

    size: int = 448
    objects: tuple[int, int] = (2, 4)
    negative: float = 0.1
    fist: float = 0.4
    radius: tuple[float, float] = (0.125, 0.20)
    gap: tuple[float, float] = (0.05, 0.20)
    overlap: float = 0.3

    def __post_init__(self) -> None:
        low, high = self.objects
        if not 1 <= low <= high <= 5:
            raise ValueError(f"objects is {self.objects}; give (least, most) with 1 <= least <= most <= 5")
        if self.size < 56:
            raise ValueError(f"size is {self.size}; scenes need at least 56 pixels to be readable")
        for name, value in (("negative", self.negative), ("fist", self.fist), ("overlap", self.overlap)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}; give a share between 0 and 1")
        for name, (least, most), limit in (("radius", self.radius, 0.2), ("gap", self.gap, 0.25)):
            if not 0.0 < least <= most <= limit:
                raise ValueError(f"{name} is ({least}, {most}); give 0 < least <= most <= {limit}, or nothing fits")


# Harder: smaller tiles, more of them, farther from the finger.
FAR = SceneOptions(objects=(3, 5), radius=(0.07, 0.11), gap=(0.05, 0.25))


@dataclass(frozen=True, slots=True)
class Tile:
    """A coloured shape about twice `radius` wide and high, turned by `turn` radians.

    >>> Tile(0.5 + 0.5j, 0.15, 0.0, "red", "star").name
    'red star'
    """

    centre: complex
    radius: float
    turn: float
    colour: str
    shape: str

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Hand:
    """A hand lying on the table. `base` is the index knuckle, `direction` the unit number the finger points along.

    `length` is that of the index finger, `girth` the thickness of fingers relative to the usual, `bend` the angle of
    the forearm to the finger. `fist` folds the index finger as well.

    >>> Hand(0.2 + 0.5j, 1 + 0j, 0.17, 1.0, False, "out", 0.0, False, 0, 0).tip
    (0.37+0.5j)
    """

    base: complex
    direction: complex
    length: float
    girth: float
    mirrored: bool
    thumb: str
    bend: float
    fist: bool
    skin: int
    sleeve: int

    @property
    def tip(self) -> complex:
        return self.base + self.direction * self.length

    def place(self, point: complex) -> complex:
        """From the hand's own axes (x along the finger, y towards the little finger, 1 = `length`) to the image's."""
        return self.base + (point.conjugate() if self.mirrored else point) * self.direction * self.length


@dataclass(frozen=True, slots=True)
class Layout:
    """A scene before it is drawn. `tiles` are in drawing order, the last on top; `target` indexes them."""

    tiles: tuple[Tile, ...]
    target: int | None
    hand: Hand | None
    table: int
    light: complex  # unit number from the light towards the scene: shadows fall along it


def lay_out(seed: int, options: SceneOptions) -> Layout:
    """The layout of scene `seed`; depends on the two arguments alone (and not on `options.size`).

    Raises ValueError when the options ask for more than fits into the image.
    """
    rng = random.Random(seed)
    negative = rng.random() < options.negative  # once per scene, so that retries cannot favour either kind
    fist = negative and rng.random() < options.fist
    count = rng.randint(*options.objects)
    overlap = rng.random() < options.overlap
    for _ in range(ATTEMPTS):
        layout = _attempt(rng, options, negative, fist, count, overlap)
        if layout is not None:
            return layout
    raise ValueError(f"scene {seed}: {count} tiles and a hand did not fit in {ATTEMPTS} tries; ask for less")


def _attempt(
    rng: random.Random, options: SceneOptions, negative: bool, fist: bool, count: int, overlap: bool
) -> Layout | None:
    """One try to fit everything; None when it does not fit."""
    names = rng.sample([(colour, shape) for colour in COLOURS for shape in SHAPES], count)
    first = _tile(rng, options, names[0])
    hand = _hand(rng, options, first, fist) if fist or not negative else None
    if hand is None and (fist or not negative):
        return None
    box = hand_box(hand) if hand is not None else None
    tiles = [first]
    for _ in range(40 * count):
        if len(tiles) == count:
            break
        tile = _tile(rng, options, names[len(tiles)])
        closeness = min(abs(tile.centre - t.centre) / (tile.radius + t.radius) for t in tiles)
        if closeness < (0.8 if overlap else APART):
            continue
        if hand is not None and box is not None and not _clear_of_hand(tile, hand, box):
            continue
        tiles.append(tile)
        overlap = overlap and closeness > APART  # one pair a scene: every tile stays mostly visible
    if len(tiles) < count:
        return None
    order = rng.sample(range(count), count)
    light = cmath.rect(1.0, rng.uniform(0.15, 0.85) * math.pi / 2)
    return Layout(
        tiles=tuple(tiles[i] for i in order),
        target=None if negative else order.index(0),
        hand=hand,
        table=rng.randrange(N_TABLES),
        light=light,
    )


def _tile(rng: random.Random, options: SceneOptions, name: tuple[str, str]) -> Tile:
    radius = rng.uniform(*options.radius)
    edge = radius + BORDER
    centre = complex(rng.uniform(edge, 1 - edge), rng.uniform(edge, 1 - edge))
    return Tile(centre, radius, rng.uniform(-0.2, 0.2), *name)


def _hand(rng: random.Random, options: SceneOptions, target: Tile, fist: bool) -> Hand | None:
    """A hand that points at the target and fits into the image, or None after a fair number of tries."""
    length = rng.uniform(0.16, 0.21)
    girth = rng.uniform(0.95, 1.2)
    mirrored = rng.random() < 0.5
    thumb = rng.choice(("out", "tucked"))
    bend = rng.uniform(-0.45, 0.45)
    skin, sleeve = rng.randrange(N_SKINS), rng.randrange(N_SLEEVES)
    for _ in range(20):
        direction = cmath.rect(1.0, rng.uniform(-math.pi, math.pi))
        aside = rng.uniform(-0.25, 0.25) * target.radius  # the ray passes near the centre, not always through it
        ahead = target.radius + rng.uniform(*options.gap)
        base = target.centre - direction * complex(ahead + length, aside)
        hand = Hand(base, direction, length, girth, mirrored, thumb, bend, fist, skin, sleeve)
        wrist = hand.place(_WRIST)
        if not (0 < wrist.real < 1 and 0 < wrist.imag < 1):
            continue  # cheaper to see than the box
        left, top, right, bottom = hand_box(hand)
        if min(left, top) >= BORDER and max(right, bottom) <= 1 - BORDER:
            return hand
    return None


def _clear_of_hand(tile: Tile, hand: Hand, box: Box) -> bool:
    """Whether a tile stays off the hand and the arm, and well off the ray, past the target and to the border."""
    left, top, right, bottom = box
    reach = REACH * tile.radius
    nearest = complex(min(max(tile.centre.real, left), right), min(max(tile.centre.imag, top), bottom))
    if abs(tile.centre - nearest) < reach:
        return False
    ahead = (tile.centre - hand.tip) / hand.direction
    if not hand.fist and ahead.real > -reach and abs(ahead.imag) < reach + RAY_MARGIN:
        return False
    wrist, outward = arm(hand)
    along = (tile.centre - wrist) / outward
    return along.real < -reach or abs(along.imag) > reach + SLEEVE[1] * WRIST * hand.length


# The hand's anatomy, in its own axes: each part is the convex hull of circles.
_KNUCKLES = ((0.0 + 0.0j, 0.155), (0.02 + 0.27j, 0.15), (-0.03 + 0.53j, 0.145), (-0.12 + 0.76j, 0.125))
_PALM = ((-0.06 + 0.03j, 0.17), (-0.18 + 0.73j, 0.15), (-0.85 + 0.08j, 0.19), (-0.88 + 0.58j, 0.2))
_THUMBS = {
    "out": (((-0.72 + 0.08j, 0.2), (-0.34 - 0.24j, 0.155)), ((-0.34 - 0.24j, 0.155), (0.04 - 0.33j, 0.125))),
    "tucked": (((-0.74 + 0.1j, 0.2), (-0.36 + 0.06j, 0.16)), ((-0.36 + 0.06j, 0.16), (-0.02 + 0.36j, 0.13))),
}
_WRIST = -0.9 + 0.33j


def finger(hand: Hand) -> tuple[Circle, ...]:
    """The extended index finger; its far end is the fingertip. A fist has it folded."""
    if hand.fist:
        return _folded(0, hand.girth)
    end = 0.125 * hand.girth
    return ((0.0 + 0.0j, 0.155 * hand.girth), (0.5 + 0.0j, 0.14 * hand.girth), (1.0 - end + 0.0j, end))


def folded_fingers(hand: Hand) -> tuple[tuple[Circle, ...], ...]:
    """Middle, ring and little finger, folded over the palm."""
    return tuple(_folded(i, hand.girth) for i in (1, 2, 3))


def _folded(index: int, girth: float) -> tuple[Circle, ...]:
    knuckle, radius = _KNUCKLES[index]
    radius *= min(girth, 1.05)  # neighbours may touch but not cover one another
    return ((knuckle - 0.24, radius), (knuckle + 0.16, radius * 1.02))


def palm(hand: Hand) -> tuple[Circle, ...]:
    """The back of the hand, without fingers."""
    return _PALM


def thumb(hand: Hand) -> tuple[tuple[Circle, ...], ...]:
    """The thumb's two segments."""
    return _THUMBS[hand.thumb]


def arm(hand: Hand) -> tuple[complex, complex]:
    """The wrist and the unit number from it along the forearm, in the image's axes."""
    return hand.place(_WRIST), -hand.direction * cmath.rect(1.0, hand.bend)


def hand_parts(hand: Hand) -> tuple[tuple[Circle, ...], ...]:
    """Palm, fingers and thumb, without the forearm."""
    return (palm(hand), finger(hand), *folded_fingers(hand), *thumb(hand))


def hand_box(hand: Hand) -> Box:
    """(left, top, right, bottom) of palm, fingers and thumb, in fractions of the side."""
    circles = [(hand.place(c), r * hand.length) for part in hand_parts(hand) for c, r in part]
    return (
        min(c.real - r for c, r in circles),
        min(c.imag - r for c, r in circles),
        max(c.real + r for c, r in circles),
        max(c.imag + r for c, r in circles),
    )


def border_exit(start: complex, direction: complex, low: float, high: float) -> complex:
    """Where the half-line from `start` along `direction` leaves the square [low, high]^2; `start` if it is outside.

    >>> border_exit(0.5 + 0.25j, 1 + 0j, 0.0, 1.0)
    (1+0.25j)
    """
    ways: list[float] = []
    for at, step in ((start.real, direction.real), (start.imag, direction.imag)):
        if abs(step) > 1e-12:
            ways.append(((high if step > 0 else low) - at) / step)
    end = start + direction * max(0.0, min(ways))
    return complex(min(max(end.real, low), high), min(max(end.imag, low), high))
