"""What a model said of each task, as rows for files: `pointvg score` reads them, and people do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from orchestrator.evaluation.frames import frame_of
from pointing.agreement import agreement
from pointing.geometry import Box
from pointing.grammar import parse
from pointing.parts import predict, said_name
from schemas.scoring import FrameSpec
from schemas.task import Record, Task


class Answer(Record):
    """One task's answer. Boxes are (left, top, right, bottom), all in pixels of the original image; None: not said.

    Of several draws it is the one that most others agree with; `confidence` is the share of them that do, and None of
    one draw. `response` holds the turns joined, `frame` how they write coordinates.
    """

    id: str
    image: str
    question: str
    name: str | None
    target: Box | None
    hand: Box | None
    ray: tuple[tuple[float, float], tuple[float, float]] | None
    confidence: float | None
    ended_by: str
    turns: tuple[str, ...]
    response: str
    frame: FrameSpec

    def line(self) -> str:
        """For people.

        >>> Answer(id="a", image="a.jpg", question="?", name="a cup", target=(1, 2, 3, 4.4), hand=None, ray=None,
        ...        confidence=0.75, ended_by="answer", turns=(), response="",
        ...        frame=FrameSpec(original_size=(9, 9))).line()
        'a.jpg: a cup at [1, 2, 3, 4], 75 % sure'
        """
        where = "" if self.target is None else f" at [{', '.join(f'{side:.0f}' for side in self.target)}]"
        what = self.name or ("something without a name" if self.target else "nothing")
        sure = "" if self.confidence is None else f", {self.confidence:.0%}".replace("%", " % sure")
        cut = "" if self.ended_by == "answer" else f" (ended by its {self.ended_by.replace('_', ' ')})"
        return f"{self.image}: {what}{where}{sure}{cut}"


def answers(rows: Sequence[dict[str, Any]], tasks: Sequence[Task], questions: Sequence[str]) -> Iterator[Answer]:
    """From ROLLOUT rows of these tasks, any number of each; an answer a task, in their order.

    `questions` are the tasks' as people asked them.
    """
    drawn: dict[str, list[dict[str, Any]]] = {task.task_id: [] for task in tasks}
    for row in rows:
        drawn[row["task_id"]].append(row)
    for task, question in zip(tasks, questions, strict=True):
        yield _answer(task, question, drawn[task.task_id])


def kept_answers(trajectories: pa.Table, tasks: Mapping[str, Task]) -> tuple[tuple[Answer, ...], tuple[Task, ...]]:
    """An answer a task of an evaluation, and the tasks: of the greedy replies, or of the drawn ones where none is."""
    rows = trajectories.to_pylist()
    greedy = [row for row in rows if row["kind"] == "greedy"]
    played = tuple(tasks.values())
    return tuple(answers(greedy or rows, played, [task.question for task in played])), played


def _answer(task: Task, question: str, rows: Sequence[dict[str, Any]]) -> Answer:
    read = [(parse(row["reply"]), frame_of(row)) for row in rows]
    said = [predict(reply, frame) for reply, frame in read]
    agreed = agreement([one.target for one in said])
    row, prediction = rows[agreed.best], said[agreed.best]
    return Answer(
        id=task.task_id,
        image=task.images[0],
        question=question,
        name=None if prediction.target is None else said_name(read[agreed.best][0]) or None,
        target=prediction.target,
        hand=prediction.hand,
        ray=prediction.ray,
        confidence=agreed.share if len(rows) > 1 else None,
        ended_by=row["ended_by"],
        turns=tuple(row["turn_texts"]),
        response=row["reply"],
        frame=FrameSpec(kind=row["frame"], original_size=row["original_size"], seen_size=row["seen_size"]),
    )
