"""Pictures for people: a reply drawn over its image beside the truth, sheets of such pictures, and curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from orchestrator.telemetry.curves import plot_curves
from pointing.coordinates import Frame
from pointing.geometry import Box, Segment, clamp, clip_segment, iou
from pointing.grammar import parse
from pointing.parts import predict, read_truth, said_name
from schemas.task import GroundTruth

__all__ = ["contact_sheet", "marked", "overlay", "plot_curves"]

Colour = tuple[int, int, int]
TRUTH: Colour = (0, 150, 70)
REPLY: Colour = (225, 0, 140)
INK: Colour = (40, 40, 44)
PAPER: Colour = (255, 255, 255)
LEAST, MOST = 448, 1024  # longer side in pixels: smaller images are enlarged, larger ones reduced
LINE_HEIGHT = 20
CELL = 448


def overlay(image: Image.Image, truth: GroundTruth | None, reply: str, frame: Frame) -> Image.Image:
    """The original image with the truth in green, where one is known, the reply in magenta, and a legend below.

    Thin boxes are hands, thick ones targets, arrows rays. `frame` is that of the reply. Any reply is legal: what it
    lacks is not drawn, and what lies outside the image is cut off.
    """
    picture, sketch = _prepared(image)
    known, parsed = None if truth is None else read_truth(truth), parse(reply)
    said = predict(parsed, frame)
    if known is not None:
        sketch.mark(known.hand, known.target, known.ray, TRUTH)
    sketch.mark(said.hand, said.target, said.ray, REPLY)
    name = "nothing is pointed at" if known is None else known.name or "(no name)"
    caption = said_name(parsed) or ("(no caption)" if said.target else "(no object)")
    numbers = ""
    if known is not None:
        pairs = (("hand IoU", known.hand, said.hand), ("object IoU", known.target, said.target))
        numbers = "   ".join(f"{what} {iou(a, b) if b else 0.0:.2f}" for what, a, b in pairs if a is not None)
    if truth is None:
        return _with_legend(picture, [("reply: " + caption, REPLY)])
    return _with_legend(picture, [("truth: " + name, TRUTH), ("reply: " + caption, REPLY), (numbers, INK)])


def marked(image: Image.Image, truth: GroundTruth | None, lines: Sequence[str]) -> Image.Image:
    """The original image with the truth alone, and lines of text below; None is a row without a usable truth."""
    picture, sketch = _prepared(image)
    known = read_truth(truth)
    if known is not None:
        sketch.mark(known.hand, known.target, known.ray, TRUTH)
    return _with_legend(picture, [(line, INK) for line in lines])


def _prepared(image: Image.Image) -> tuple[Image.Image, _Sketch]:
    """A copy of a usual size, and what draws on it in pixels of the original."""
    longer = max(image.size)
    scale = clamp(longer, LEAST, MOST) / longer
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return picture, _Sketch(picture, scale)


class _Sketch:
    """Draws parts given in original pixels onto a scaled picture, each line on a white one to stand out."""

    def __init__(self, picture: Image.Image, scale: float) -> None:
        self._draw = ImageDraw.Draw(picture)
        self._width, self._height = picture.size
        self._scale = scale
        self._thin = max(2, round(min(picture.size) / 200))

    def mark(self, hand: Box | None, target: Box | None, ray: Segment | None, colour: Colour) -> None:
        """Draws what is known; None is left out."""
        if hand is not None:
            self._box(hand, colour, self._thin)
        if target is not None:
            self._box(target, colour, 2 * self._thin)
        if ray is not None:
            self._arrow(ray, colour)

    def _box(self, box: Box, colour: Colour, width: int) -> None:
        if not all(map(math.isfinite, box)):
            return
        xs = sorted(clamp(x * self._scale, 0, self._width - 1) for x in (box[0], box[2]))
        ys = sorted(clamp(y * self._scale, 0, self._height - 1) for y in (box[1], box[3]))
        corners = (xs[0], ys[0], xs[1], ys[1])
        self._draw.rectangle((corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1), None, PAPER, width + 2)
        self._draw.rectangle(corners, None, colour, width)

    def _arrow(self, ray: Segment, colour: Colour) -> None:
        (ax, ay), (bx, by) = (tuple(value * self._scale for value in point) for point in ray)
        inside = clip_segment((ax, ay), (bx, by), self._width - 1, self._height - 1)
        if inside is None:
            return
        start, end = inside
        length = math.hypot(end[0] - start[0], end[1] - start[1])
        if length < 1:
            return
        along = ((end[0] - start[0]) / length, (end[1] - start[1]) / length)
        head = min(6.0 * self._thin, length)
        back = (end[0] - head * along[0], end[1] - head * along[1])
        sides = [(back[0] + s * head * along[1] / 2, back[1] - s * head * along[0] / 2) for s in (-1, 1)]
        for width, paint in ((self._thin + 2, PAPER), (self._thin, colour)):
            self._draw.line([start, back], paint, width)
        self._draw.polygon([end, *sides], colour, PAPER)
        dot = 1.5 * self._thin
        self._draw.ellipse((start[0] - dot, start[1] - dot, start[0] + dot, start[1] + dot), colour, PAPER)


def _with_legend(picture: Image.Image, lines: Sequence[tuple[str, Colour]]) -> Image.Image:
    """The picture on top of a strip with one line of text each."""
    framed = Image.new("RGB", (picture.width, picture.height + LINE_HEIGHT * len(lines) + 8), PAPER)
    framed.paste(picture, (0, 0))
    draw = ImageDraw.Draw(framed)
    font = ImageFont.load_default(15)
    for number, (text, colour) in enumerate(lines):
        printable = "".join(c if c.isprintable() else " " for c in text[:200])
        while printable and draw.textlength(printable, font=font) > picture.width - 12:
            printable = printable[: max(0, len(printable) - 4)].rstrip() + "…" if len(printable) > 4 else ""
        draw.text((6, picture.height + 4 + number * LINE_HEIGHT), printable, colour, font)
    return framed


def contact_sheet(images: Sequence[Image.Image], columns: int = 4) -> Image.Image:
    """Images in rows on white, each at most 448 pixels wide and never enlarged. Raises ValueError without images."""
    if not images or columns < 1:
        raise ValueError(f"{len(images)} images in {columns} columns: a sheet needs at least one of each")
    cells = [_narrowed(image) for image in images]
    columns = min(columns, len(cells))
    width, space = max(cell.width for cell in cells), 8
    rows = [cells[first : first + columns] for first in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (columns * (width + space) + space, sum(heights) + space * (len(rows) + 1)), PAPER)
    top = space
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (space + column * (width + space), top))
        top += height + space
    return sheet


def _narrowed(image: Image.Image) -> Image.Image:
    if image.width <= CELL:
        return image.convert("RGB")
    height = max(1, round(image.height * CELL / image.width))
    return image.convert("RGB").resize((CELL, height), Image.Resampling.LANCZOS)
