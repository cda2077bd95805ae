"""The one scoring core behind both doors of the reward service.

    Arrow rows (deployment handle) --\\
                                      score_items --> pointing.rewards.score
    ScoreItem (HTTP)               --/

A malformed reply is a legal outcome with its own score. A reward that cannot be computed is an error that names the
item, never a 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import pyarrow as pa

from pointing import rewards
from pointing.coordinates import Frame, Size
from pointing.rewards import Score
from schemas.batch import ROLLOUT, SCORE_TERMS, SCORES, check
from schemas.scoring import FrameSpec, ItemScore, RewardRules, ScoreItem


class ScoringError(RuntimeError):
    """A reward could not be computed; names the item."""


def frame_of(spec: FrameSpec | None) -> Frame:
    """The frame a reply is written in; without a spec, pixels of the original image. Sizes are (width, height)."""
    if spec is None:
        return Frame.identity()
    return Frame(spec.kind, Size(*spec.original_size), Size(*(spec.seen_size or spec.original_size)))


def score_items(items: Sequence[ScoreItem], rules: RewardRules) -> list[Score]:
    """Scores every item, in order. Raises ScoringError for the first whose reward cannot be computed."""
    scores: list[Score] = []
    for index, item in enumerate(items):
        name = f"item {index}" if item.id is None else f"item {index} ({item.id})"
        try:
            score = rewards.score(item.response, item.ground_truth, frame_of(item.frame), rules)
        except Exception as error:
            raise ScoringError(f"{name}: the reward raised {type(error).__name__}: {error}") from error
        numbers = [score.reward, *score.terms().values()]
        if not all(isfinite(number) for number in numbers):
            raise ScoringError(f"{name}: the reward is not finite: {numbers}")
        scores.append(score)
    return scores


def answer(items: Sequence[ScoreItem], rules: RewardRules) -> tuple[ItemScore, ...]:
    """Scores every item for HTTP."""
    scores = zip(items, score_items(items, rules), strict=True)
    return tuple(ItemScore(id=item.id, reward=score.reward, terms=score.terms()) for item, score in scores)


def score_table(rollouts: pa.Table, rules: RewardRules) -> pa.Table:
    """ROLLOUT rows in, SCORES rows out, in the same order; both checked against their schemas."""
    check(rollouts, ROLLOUT, "reward input")
    columns = ("trajectory_id", "reply", "ground_truth", "frame", "original_size", "seen_size")
    items = [
        ScoreItem(
            id=row["trajectory_id"],
            response=row["reply"],
            ground_truth=row["ground_truth"],
            frame=FrameSpec(kind=row["frame"], original_size=row["original_size"], seen_size=row["seen_size"]),
        )
        for row in rollouts.select(columns).to_pylist()
    ]
    scores = score_items(items, rules)
    columns = {
        "trajectory_id": rollouts.column("trajectory_id").combine_chunks(),
        "reward": [score.reward for score in scores],
        **{term: [getattr(score, term) for score in scores] for term in SCORE_TERMS},
    }
    return check(pa.Table.from_pydict(columns, schema=SCORES), SCORES, "reward output")
