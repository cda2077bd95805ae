"""Synthetic pointing scenes with exact ground truth, one at a time or as a dataset on disk.

    seed -> lay_out (where things are) -> paint (pixels)          -> Scene
                                       -> boxes, points, ray, name
    write_scenes: Scene x N -> images/*.png, train.jsonl, validation.jsonl, test.jsonl, written.list

A scene depends on its seed and options alone, whatever was drawn before it. Ground truth is in pixels of the image,
counted from the outer edge of the first pixel, to a tenth.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from files.owned import holds, writing_folder
from pointing.drawing import encode_png
from pointing.prompts import QUESTION
from pointing.scene_drawing import Brush, mask_tile, paint, tile_box
from pointing.scene_layout import (
    COLOURS,
    FAR,
    REACH,
    SHAPES,
    Hand,
    Layout,
    SceneOptions,
    Tile,
    border_exit,
    hand_box,
    lay_out,
)
from schemas.task import NEGATIVE, Box, GroundTruth, Point, RaySegment

__all__ = ["COLOURS", "FAR", "SHAPES", "Scene", "SceneObject", "SceneOptions", "render", "seeds", "write_scenes"]

PROMPT = f"<image>{QUESTION}"
SPLITS = ("train", "validation", "test")
SEEDS_PER_SPLIT = 10_000_000


class SceneObject(NamedTuple):
    """A tile as it is seen: the box of its visible part in pixels, its colour and its shape.

    >>> SceneObject((10.0, 20.0, 70.0, 80.0), "red", "star").shape
    'star'
    """

    box: Box
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and everything known of it. `objects` has the tile pointed at first, if there is one.

    >>> scene = render(7)
    >>> scene.negative, len(scene.objects), scene.image.size
    (False, 2, (448, 448))
    """

    image: Image.Image
    truth: GroundTruth
    objects: tuple[SceneObject, ...]
    negative: bool


def render(seed: int, options: SceneOptions = SceneOptions()) -> Scene:
    """The scene of a seed (a whole number, not negative). Raises ValueError if the options leave no room."""
    layout = lay_out(seed, options)
    size = options.size
    image = paint(layout, size, np.random.default_rng(seed))
    objects = tuple(
        SceneObject(_visible_box(layout, index, size), tile.colour, tile.shape)
        for index, tile in enumerate(layout.tiles)
    )
    if layout.target is None or layout.hand is None:
        return Scene(image, NEGATIVE, objects, negative=True)
    target = objects[layout.target]
    others = objects[: layout.target] + objects[layout.target + 1 :]
    truth = _truth(layout.hand, target, layout.tiles[layout.target], size)
    return Scene(image, truth, (target, *others), negative=False)


def _truth(hand: Hand, target: SceneObject, tile: Tile, size: int) -> GroundTruth:
    # The last pixel's index and not the border itself, so that the end of the ray can be drawn.
    end = border_exit(hand.tip, hand.direction, 0.0, (size - 1) / size)
    return GroundTruth(
        stage=2,
        hand_bbox=_pixels(hand_box(hand), size),
        pointing_keypoints=(_pixel(hand.base, size), _pixel(hand.tip, size)),
        pointing_ray=RaySegment(start=_pixel(hand.tip, size), end=_pixel(end, size)),
        obj_bbox=target.box,
        obj_name=tile.name,
    )


def _pixel(point: complex, size: int) -> Point:
    return round(point.real * size, 1), round(point.imag * size, 1)


def _pixels(box: tuple[float, float, float, float], size: int) -> Box:
    left, top, right, bottom = (round(edge * size, 1) for edge in box)
    return left, top, right, bottom


def _visible_box(layout: Layout, index: int, size: int) -> Box:
    """The box of what is seen of a tile, in pixels: all of it, unless a tile drawn later covers an end of it."""
    tile = layout.tiles[index]
    left, top, right, bottom = whole = _pixels(tile_box(tile), size)
    above = [
        other
        for other in layout.tiles[index + 1 :]
        if abs(other.centre - tile.centre) < REACH * (other.radius + tile.radius)
    ]
    if not above:
        return whole
    mask = Image.new("L", (size, size), 0)
    brush = Brush(ImageDraw.Draw(mask), size)
    mask_tile(brush, tile, 255)
    for other in above:
        mask_tile(brush, other, 0)
    seen = mask.getbbox()
    if seen is None:
        raise AssertionError(f"the {tile.name} is hidden: tiles are laid out to overlap a little at most")
    # The mask is exact to a pixel, the whole box to a tenth: take the mask's edge only where it cuts something off.
    cut = 1.5
    return (
        left if seen[0] - left < cut else float(seen[0]),
        top if seen[1] - top < cut else float(seen[1]),
        right if right - seen[2] < cut else float(seen[2]),
        bottom if bottom - seen[3] < cut else float(seen[3]),
    )


def seeds(split: str, count: int, seed: int = 0) -> range:
    """`count` scene seeds of a split. Splits share none, nor do different values of `seed`.

    >>> seeds("validation", 2)
    range(10000000, 10000002)
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; one of {', '.join(SPLITS)}")
    if not 0 <= count <= SEEDS_PER_SPLIT or seed < 0:
        raise ValueError(f"count is {count} and seed {seed}; give 0 to {SEEDS_PER_SPLIT} scenes and a seed from 0 on")
    start = (seed * len(SPLITS) + SPLITS.index(split)) * SEEDS_PER_SPLIT
    return range(start, start + count)


def write_scenes(
    folder: str | Path,
    *,
    train: int = 512,
    validation: int = 128,
    test: int = 128,
    seed: int = 0,
    options: SceneOptions = SceneOptions(),
    overwrite: bool = False,
    drawn: Callable[[], None] = lambda: None,
) -> Path:
    """Writes a dataset of scenes in the published format, and returns its folder. `drawn` is called after each scene.

    A folder that already holds exactly these scenes is left as it is. With `overwrite`, one that holds other scenes is
    replaced once the new ones are complete. Raises ExistsError if anything else would be replaced or mixed with them.
    """
    folder = Path(folder)
    counts = {"train": train, "validation": validation, "test": test}
    ranges = {split: seeds(split, count, seed) for split, count in counts.items()}
    recipe = _recipe(ranges, options)
    if holds(folder, recipe):
        return folder
    with writing_folder(folder, "pointvg scenes", overwrite=overwrite, about=recipe) as fresh:
        (fresh / "images").mkdir()
        for split, scenes in ranges.items():
            _write_split(fresh, split, scenes, options, drawn)
    return folder


def _recipe(ranges: dict[str, range], options: SceneOptions) -> dict[str, Any]:
    """All that decides the files' bytes, in JSON. The pixels of one scene stand for the code that draws them."""
    sample = render(0, options).image.tobytes()
    return {
        "options": json.loads(json.dumps(asdict(options))),  # tuples become lists, as they will be when read back
        "seeds": {split: [scenes.start, scenes.stop] for split, scenes in ranges.items()},
        "scene_0": hashlib.blake2b(sample, digest_size=16).hexdigest(),
    }


def _write_split(folder: Path, split: str, scenes: range, options: SceneOptions, drawn: Callable[[], None]) -> None:
    with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as lines:
        for scene_seed in scenes:
            scene = render(scene_seed, options)
            name = f"images/{split}-{scene_seed - scenes.start:06d}.png"
            (folder / name).write_bytes(encode_png(scene.image))
            truth = {"stage": 1, "hand_bbox": None} if scene.negative else scene.truth.model_dump(mode="json")
            lines.write(json.dumps({"prompt": PROMPT, "ground_truth": truth, "images": [name]}) + "\n")
            drawn()
