"""Data files to look at: rows as cards, their marks over the image and what is wrong with them; a sheet of some.

first pass   check --> which rows have problems, how many rows there are
second pass  the rows with problems, and others at equal distances --> cards --template--> one page of HTML
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from orchestrator.evaluation.overlays import contact_sheet, marked
from orchestrator.report.pictures import Picture, Pictures
from orchestrator.report.replies import Marks
from pointing.curation.check import CheckOptions, check, split_of
from pointing.curation.finding import Finding
from pointing.dataset import DatasetOptions, ReadRow, read_rows
from pointing.drawing import ImageError, open_image
from pointing.parts import Truth, read_truth
from schemas.task import GroundTruth

SHEET = 24  # cells
MOST_FINDINGS = 100_000  # that are remembered between the passes
_NOTHING = Marks.of(None, None, None)


@dataclass(frozen=True, slots=True)
class DataCard:
    """A row as the page shows it. `pointing` is "positive", "negative" or "refused".

    >>> DataCard("a.jsonl:1", "a.jsonl", "negative", "What?", "nothing", _NOTHING, None, ()).problems
    ()
    """

    place: str
    split: str
    pointing: str
    question: str
    name: str
    marks: Marks
    picture: Picture | None
    problems: tuple[str, ...]
    truth: GroundTruth | None = None
    file: Path | None = None  # of the first image, where it can be read


@dataclass(frozen=True, slots=True)
class DataPage:
    """What the template shows."""

    title: str
    rows: int
    errors: int
    warnings: int
    cards: tuple[DataCard, ...]
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]


def data_page(options: CheckOptions, title: str, limit: int, row_read: Callable[[], None] = lambda: None) -> DataPage:
    """At most `limit` rows of the files: those with problems first, then others at equal distances.

    Raises DatasetError for a file that cannot be read at all; `row_read` is called twice for each row.
    """
    counted = _Counted(row_read)
    found: dict[str, list[Finding]] = {}
    errors = warnings = 0
    for finding in check(options, counted.one):
        errors += finding.problem.severity == "error"
        warnings += finding.problem.severity == "warning"
        if len(found) < MOST_FINDINGS:
            found.setdefault(finding.problem.source, []).append(finding)
    files: dict[str, str] = {}
    pictures = Pictures(files)
    cards: list[DataCard] = []
    for row in _chosen(options.data, found, counted.rows, limit, row_read):
        place = f"{row.file}:{row.line}"
        if (file := _readable(row)) is not None:
            files[place] = str(file)
        picture = None if file is None else pictures.of(place)
        cards.append(_card(row, place, options.split_key, tuple(found.get(place, ())), picture))
    shown = {card.place for card in cards}
    left_out = sum(place not in shown for place in found)
    notes = list(pictures.notes())
    if left_out:
        more = "pointvg data check lists all, and --limit shows more"
        notes.append(f"{left_out} places with problems are not shown; {more}")
    return DataPage(title, counted.rows, errors, warnings, tuple(cards), pictures.all, tuple(notes))


class _Counted:
    def __init__(self, row_read: Callable[[], None]) -> None:
        self.rows = 0
        self._row_read = row_read

    def one(self) -> None:
        self.rows += 1
        self._row_read()


def _chosen(
    data: DatasetOptions, found: dict[str, list[Finding]], rows: int, limit: int, row_read: Callable[[], None]
) -> Iterator[ReadRow]:
    """The rows to show, in the order of the files."""
    with_problems = min(limit, len(found))
    step = max(1, -(-rows // max(1, limit - with_problems)))
    room, others = with_problems, limit - with_problems
    for number, row in enumerate(read_rows(data)):
        row_read()
        if f"{row.file}:{row.line}" in found:
            if room:
                room -= 1
                yield row
        elif others and number % step == 0:
            others -= 1
            yield row


def _card(row: ReadRow, place: str, split_key: str, findings: tuple[Finding, ...], picture: Picture | None) -> DataCard:
    task = row.task
    truth = None if task is None else read_truth(task.ground_truth)
    pointing = "refused" if task is None else "negative" if truth is None else "positive"
    return DataCard(
        place=place,
        split=split_of(row.fields, row.file, split_key),
        pointing=pointing,
        question="" if task is None else task.question,
        name=_name(pointing, truth),
        marks=_NOTHING if truth is None else Marks.of(truth.hand, truth.target, truth.ray),
        picture=picture,
        problems=tuple(str(finding).replace(f"{place}: ", "") for finding in findings),
        truth=None if task is None else task.ground_truth,
        file=_readable(row),
    )


def _readable(row: ReadRow) -> Path | None:
    """The first image, if it is one."""
    return row.images[0] if row.images and row.sizes and row.sizes[0] is not None else None


def _name(pointing: str, truth: Truth | None) -> str:
    if truth is None:
        return "nothing is pointed at" if pointing == "negative" else "refused"
    return truth.name or "(no name)"


def data_sheet(page: DataPage, cells: int = SHEET) -> Image.Image:
    """A picture of the first cards of a page that have an image. Raises ValueError where there is none."""
    images: list[Image.Image] = []
    for card in page.cards:
        if card.file is None or len(images) >= cells:
            continue
        try:
            image = open_image(card.file)
        except ImageError:
            continue  # the card says so
        images.append(marked(image, card.truth, [f"{Path(card.place).name}  {card.name}", *card.problems[:1]]))
    return contact_sheet(images)
