"""Augmented reality: the target's name on a card beside it, tied to it by a line, and within the view.

python -m examples.ar.run [PHOTO...] [--model DIR]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from examples.shared import read_arguments
from orchestrator.evaluation.answers import Answer
from orchestrator.pointer import LocalPointer
from pointing.geometry import Box

GAP = 12.0  # pixels between a card and its target
MARGIN = 8.0
INK, PAPER = (24, 26, 32), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class NameCard:
    """Where a card lies, and the two ends of the line that ties it to its target; all in pixels of the photo."""

    box: Box
    anchor: tuple[float, float]
    tie: tuple[float, float]


def placed(target: Box, size: tuple[float, float], view: tuple[int, int]) -> NameCard:
    """A card of `size` above its target, below it where there is no room, moved sideways to stay within the view."""
    left, top, right, bottom = target
    width, height = size
    middle = (left + right) / 2
    x = min(max(middle - width / 2, 0.0), max(view[0] - width, 0.0))
    above = top - GAP - height
    y = above if above >= 0 else min(bottom + GAP, max(view[1] - height, 0.0))
    anchored = (middle, top if above >= 0 else bottom)
    return NameCard((x, y, x + width, y + height), anchored, (middle, y + height if above >= 0 else y))


def draw(answer: Answer, out: Path) -> Path | None:
    """Writes the photo with its card; None where nobody points."""
    if answer.target is None:
        return None
    with Image.open(answer.image) as photo:
        picture = photo.convert("RGB")
    sketch, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    name = answer.name or "?"
    sure = "" if answer.confidence is None else f"   {answer.confidence:.0%}"
    size = (sketch.textlength(name + sure, font=font) + 2 * MARGIN, 18 + 2 * MARGIN)
    card = placed(answer.target, size, picture.size)
    sketch.rectangle(answer.target, outline=PAPER, width=3)
    sketch.line((card.anchor, card.tie), fill=PAPER, width=3)
    sketch.rounded_rectangle(card.box, radius=8, fill=PAPER)
    sketch.text((card.box[0] + MARGIN, card.box[1] + MARGIN - 2), name + sure, fill=INK, font=font)
    file = out / f"{Path(answer.image).stem}.card.png"
    picture.save(file)
    return file


def main() -> None:
    given = read_arguments(__doc__ or "", "ar")
    for answer in LocalPointer(given.model, samples=4).ask(given.photos):
        print(f"{answer.line()}\n    -> {draw(answer, given.out) or 'no card: nobody points'}")


if __name__ == "__main__":
    main()
