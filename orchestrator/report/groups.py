"""Groups of training as they were played: all replies to one task in one step, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from orchestrator.batch.kept_groups import IMAGE
from orchestrator.report.pictures import Picture, Pictures
from orchestrator.report.replies import ReplyView, TruthView, reply_view, truth_view
from orchestrator.report.run_record import Played
from schemas.scoring import RewardRules

MOST_STEPS = 12  # that are shown, evenly over those that were kept


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group: the number of its step (the first is 1), its task, and its replies with the mean and spread of their
    rewards."""

    step: int
    task: str
    truth: TruthView
    picture: Picture | None
    mean: float
    deviation: float
    replies: tuple[ReplyView, ...]


def evenly(count: int, most: int = MOST_STEPS) -> list[int]:
    """At most so many of `count` places, the first and the last among them.

    >>> evenly(100, 3)
    [0, 50, 99]
    """
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def groups(rollouts: Sequence[Played], rules: RewardRules | None, pictures: Pictures) -> list[GroupView]:
    """The groups of some of the steps that were kept, in the order of steps; [] where none were."""
    found: list[GroupView] = []
    for place in evenly(len(rollouts)):
        by_group: dict[str, list[dict[str, Any]]] = {}
        for row in rollouts[place].table.to_pylist():
            by_group.setdefault(row["group_id"], []).append(row)
        found += [_view(rollouts[place].step, rows, rules, pictures) for rows in by_group.values()]
    return found


def _view(step: int, rows: Sequence[dict[str, Any]], rules: RewardRules | None, pictures: Pictures) -> GroupView:
    rewards = [float(row["reward"]) for row in rows]
    task = rows[0]["task_id"]
    return GroupView(
        step,
        task,
        truth_view(rows[0]["ground_truth"]),
        pictures.of(task),
        fmean(rewards),
        pstdev(rewards),
        tuple(reply_view(row, f"sample {row['sample'] + 1}", rules) for row in rows),
    )


def training_images(rollouts: Sequence[Played]) -> Mapping[str, str]:
    """Where the image of each kept task lies, by its id."""
    return {
        row["task_id"]: row[IMAGE]
        for played in rollouts
        for row in played.table.select(["task_id", IMAGE]).to_pylist()
        if row[IMAGE]
    }
