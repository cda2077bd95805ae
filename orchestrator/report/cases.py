"""Which tasks a page shows, and their replies in the first, the last and the other validations.

worst after training -> largest losses -> largest gains -> the first of the file, up to a number
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from orchestrator.report.pictures import Picture, Pictures
from orchestrator.report.replies import ReplyView, TruthView, reply_view, truth_view
from orchestrator.report.run_record import Played
from schemas.config import TrainConfig
from schemas.scoring import RewardRules

MOST_CASES = 24
WORST, MOVED = 8, 5  # of them: how many for their reward, and how many each for its fall and rise
Why = Literal["worst", "fallen", "risen", "first"]
WORDS: Mapping[Why, str] = {
    "worst": "among the worst of the last validation",
    "fallen": "its reward fell most",
    "risen": "its reward rose most",
    "first": "one of the first",
}
DRAWS = {"greedy": "greedy", "sample": "first draw"}
Rewards = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ShownReply:
    """A reply with the step whose policy gave it."""

    step: int
    reply: ReplyView


@dataclass(frozen=True, slots=True)
class Case:
    """A task with one reply of each validation: greedy where there is one. `why` says why it is shown."""

    task: str
    why: str
    truth: TruthView
    picture: Picture | None
    first: ShownReply
    last: ShownReply | None
    between: tuple[ShownReply, ...]

    @property
    def outcome(self) -> str:
        """That of the last validation."""
        return (self.last or self.first).reply.outcome


def choose(before: Rewards, after: Rewards, most: int = MOST_CASES) -> dict[str, Why]:
    """Tasks to show, and why, by their mean rewards; the worst first. Of equal ones the first of the file.

    >>> choose({"a": 5.0, "b": 5.0}, {"a": 9.0, "b": 1.0}, most=1)
    {'b': 'worst'}
    """
    chosen: dict[str, Why] = {}

    def take(tasks: Sequence[str], count: int, why: Why) -> None:
        for task in [task for task in tasks if task not in chosen][: min(count, most - len(chosen))]:
            chosen[task] = why

    moved = {task: after[task] - before[task] for task in after if task in before}
    take(sorted(after, key=lambda task: after[task]), WORST, "worst")
    fallen = sorted((task for task in moved if moved[task] < 0), key=lambda task: moved[task])
    risen = sorted((task for task in moved if moved[task] > 0), key=lambda task: -moved[task])
    take(fallen, MOVED, "fallen")
    take(risen, MOVED, "risen")
    take(list(after), most, "first")
    return chosen


def rules_of(config: object) -> RewardRules | None:
    """The rules that rewards were made by; None where a function of one's own made them."""
    if isinstance(config, TrainConfig) and config.reward.function is None:
        return config.reward.rules
    return None


def cases(validations: Sequence[Played], rules: RewardRules | None, pictures: Pictures) -> list[Case]:
    """The chosen tasks of a run's validations, in the order of `choose`; [] without validations."""
    if not validations:
        return []
    rows = [(played.step, by_task_id(played)) for played in validations]
    before, after = rewards_of(validations[0]), rewards_of(validations[-1])
    found: list[Case] = []
    for task, why in choose(before, after).items():
        shown = [
            ShownReply(step, one_reply(by_task[task], f"step {step}", rules))
            for step, by_task in rows
            if task in by_task
        ]
        truth = truth_view(rows[-1][1][task][0]["ground_truth"])
        last = shown[-1] if len(shown) > 1 else None
        found.append(Case(task, WORDS[why], truth, pictures.of(task), shown[0], last, tuple(shown[1:-1])))
    return found


def by_task_id(played: Played) -> dict[str, list[dict[str, Any]]]:
    """The rows of each task, in the order in which tasks were played."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in played.table.to_pylist():
        found.setdefault(row["task_id"], []).append(row)
    return found


def rewards_of(played: Played) -> dict[str, float]:
    """Mean over all draws of a task, in the order in which tasks were played."""
    return {task: fmean(row["reward"] for row in rows) for task, rows in by_task_id(played).items()}


def one_reply(rows: Sequence[Mapping[str, Any]], when: str, rules: RewardRules | None) -> ReplyView:
    """The greedy reply, or the first draw."""
    row = min(rows, key=lambda row: (row["kind"] != "greedy", row["sample"]))
    return reply_view(row, f"{when}, {DRAWS[row['kind']]}", rules)
