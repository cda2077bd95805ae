"""Replies for people: what was said turn by turn, its marks over the image, its reward term by term, what went wrong.

All places are in pixels of the original image, as the drawing over it has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.evaluation.frames import frame_of
from orchestrator.report.charts import number
from pointing.failures import Outcome, outcome_of
from pointing.geometry import Box, Segment
from pointing.grammar import parse
from pointing.parts import predict, read_truth, said_name
from schemas.scoring import SCORE_TERMS, RewardRules

LONGEST_TURN = 4000  # characters; a longer turn is cut
_FARTHEST = 1e5  # pixels; a mark farther out is not drawn


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """A box as SVG's rect takes it, its corners in order.

    >>> DrawnBox.of((3.0, 4.0, 1.0, 2.0))
    DrawnBox(x=1.0, y=2.0, width=2.0, height=2.0)
    """

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def of(cls, box: Box | None) -> DrawnBox | None:
        """None for what cannot be drawn."""
        if box is None or not _drawable(box):
            return None
        (x1, x2), (y1, y2) = sorted((box[0], box[2])), sorted((box[1], box[3]))
        return cls(x1, y1, x2 - x1, y2 - y1)


def _drawable(numbers: tuple[float, ...]) -> bool:
    return all(math.isfinite(value) and abs(value) <= _FARTHEST for value in numbers)


@dataclass(frozen=True, slots=True)
class Marks:
    """What is drawn over an image, of the truth or of a reply; what there is not, or cannot be drawn, is None."""

    hand: DrawnBox | None
    target: DrawnBox | None
    ray: Segment | None

    @classmethod
    def of(cls, hand: Box | None, target: Box | None, ray: Segment | None) -> Marks:
        """Of parts in pixels of the original image."""
        line = ray if ray is not None and _drawable((*ray[0], *ray[1])) else None
        return cls(DrawnBox.of(hand), DrawnBox.of(target), line)


@dataclass(frozen=True, slots=True)
class TermRow:
    """A term of the reward: its value, and the points it brings before penalties ("" where that is not known).

    >>> TermRow("obj_iou", "0.5", "2.5").points
    '2.5'
    """

    name: str
    value: str
    points: str


@dataclass(frozen=True, slots=True)
class ReplyView:
    """One reply. `marks` are None of one that says nothing that could be drawn."""

    title: str
    reward: float
    outcome: Outcome
    turns: tuple[str, ...]
    ended_by: str
    name: str
    marks: Marks
    terms: tuple[TermRow, ...]


@dataclass(frozen=True, slots=True)
class TruthView:
    """The ground truth of a task: the name of its target ("" where it is not known), and its marks."""

    negative: bool
    name: str
    marks: Marks


def truth_view(ground_truth: str) -> TruthView:
    """Of a ROLLOUT row's ground truth."""
    known = read_truth(ground_truth)
    if known is None:
        return TruthView(True, "nothing is pointed at", Marks(None, None, None))
    return TruthView(False, known.name or "", Marks.of(known.hand, known.target, known.ray))


def reply_view(row: Mapping[str, Any], title: str, rules: RewardRules | None) -> ReplyView:
    """Of a row with ROLLOUT and SCORES columns. `rules` of the built-in reward say what a term is worth."""
    frame, said = frame_of(dict(row)), parse(row["reply"])
    found = predict(said, frame)
    return ReplyView(
        title,
        float(row["reward"]),
        outcome_of(row["reply"], row["ground_truth"], frame),
        tuple(_cut(text) for text in row["turn_texts"]),
        row["ended_by"].replace("_", " "),
        said_name(said),
        Marks.of(found.hand, found.target, found.ray),
        tuple(_terms(row, rules)),
    )


def _cut(text: str) -> str:
    more = len(text) - LONGEST_TURN
    return text if more <= 0 else f"{text[:LONGEST_TURN]}… ({more} more characters)"


def _terms(row: Mapping[str, Any], rules: RewardRules | None) -> list[TermRow]:
    """The terms that apply. tool_count and obj_box_count bring no points: they divide the sum of the others."""
    weights = rules.model_dump() if rules is not None else {}
    rows: list[TermRow] = []
    for term in SCORE_TERMS:
        value = row[term]
        if value is not None:
            weight = weights.get(term)
            rows.append(TermRow(term, number(value), "" if weight is None else number(weight * value)))
    return rows
