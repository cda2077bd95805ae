"""The one scoring core behind both doors of the reward service.

    Arrow rows (deployment handle) --\\
                                      Reward.score(items) --> built in: pointing.rewards.score
    ScoreItem (HTTP) ----------------/                    --> one's own: services/reward/custom.py

A malformed reply is a legal outcome with its own score. A reward that cannot be computed is an error that names the
item, never a 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from pointing import rewards
from pointing.coordinates import Frame, Size
from schemas.batch import ROLLOUT, SCORES, check
from schemas.scoring import SCORE_TERMS, FrameSpec, ItemScore, RewardRules, ScoreItem
from services.http.not_answered import NotAnsweredError


class ScoringError(NotAnsweredError):
    """A reward could not be computed; names the item."""

    public = "a reward could not be computed; nothing of this request was scored; see the service's log"


class Item(NamedTuple):
    """One reply to score: coordinates in `frame`, ground truth (an object, its JSON, None) in original pixels.

    >>> Item("<|box_start|>[0, 0, 10, 20]<|box_end|>", {"obj_bbox": [0, 0, 10, 10]}).frame.is_identity
    True
    """

    reply: str
    truth: Mapping[str, Any] | str | None
    frame: Frame = Frame.identity()
    id: str | None = None

    def named(self, index: int) -> str:
        """How an error calls it."""
        return f"item {index}" if self.id is None else f"item {index} ({self.id})"


class Scored(NamedTuple):
    """The reward of one item and the terms that apply to it, by name. All finite.

    >>> BuiltIn().score([Item("", None)])
    [Scored(reward=1.0, terms={'neg': 1.0})]
    """

    reward: float
    terms: dict[str, float]


class Reward(Protocol):
    """What a replica scores with. Called from several threads at once."""

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """One result for each item, in order. Raises ScoringError for the first that cannot be scored."""
        ...

    def check(self) -> None:
        """Raises when this process cannot score."""
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


PROBE = Item(
    "<answer><|caption_start|>a cup<|caption_end|> <|box_start|>[10, 10, 50, 50]<|box_end|></answer>",
    {"obj_bbox": [10, 10, 50, 50]},
)


class BuiltIn:
    """The geometric reward."""

    def __init__(self, rules: RewardRules = rewards.PUBLISHED) -> None:
        self._rules = rules

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """See Reward."""
        scores: list[Scored] = []
        for index, item in enumerate(items):
            try:
                score = rewards.score(item.reply, item.truth, item.frame, self._rules)
            except Exception as error:
                raise ScoringError(f"{item.named(index)}: the reward raised {type(error).__name__}: {error}") from error
            terms = score.terms()
            # A sum is finite exactly where all of these bounded numbers are.
            if not isfinite(score.reward + sum(terms.values())):
                raise ScoringError(f"{item.named(index)}: the reward is not finite: {[score.reward, *terms.values()]}")
            scores.append(Scored(score.reward, terms))
        return scores

    def check(self) -> None:
        """Scores one reply whose outcome is known."""
        (result,) = self.score([PROBE])
        if result.terms["obj_iou"] != 1.0:
            raise RuntimeError(f"the probe's box equals the true one, but its IoU is {result.terms['obj_iou']}")

    def close(self) -> None:
        """Holds nothing."""


@lru_cache(maxsize=1024)  # a data set has few image sizes
def frame_of(kind: str, original_size: tuple[int, int], seen_size: tuple[int, int] | None) -> Frame:
    """A frame from its parts; sizes are (width, height). Without a seen size, the image is seen as it is."""
    return Frame(
        "pixels" if kind == "pixels" else "thousandths", Size(*original_size), Size(*(seen_size or original_size))
    )


def item_of(item: ScoreItem) -> Item:
    """What HTTP brought, for scoring. Without a frame, the reply is in pixels of the original image."""
    return Item(item.response, item.ground_truth, _frame(item.frame), item.id)


def _frame(spec: FrameSpec | None) -> Frame:
    return Frame.identity() if spec is None else frame_of(spec.kind, spec.original_size, spec.seen_size)


def answer(items: Sequence[ScoreItem], reward: Reward) -> tuple[ItemScore, ...]:
    """Scores every item for HTTP."""
    scores = zip(items, reward.score([item_of(item) for item in items]), strict=True)
    return tuple(ItemScore(id=item.id, reward=score.reward, terms=score.terms) for item, score in scores)


def score_table(rollouts: pa.Table, reward: Reward) -> pa.Table:
    """ROLLOUT rows in, SCORES rows out, in the same order; both checked against their schemas.

    Terms that SCORES has no column for, which only one's own reward can give, are left out.
    """
    check(rollouts, ROLLOUT, "reward input")
    columns: Any = (rollouts.column(name).to_pylist() for name in ("trajectory_id", "reply", "ground_truth", "frame"))
    ids, replies, truths, kinds = columns
    frames = map(frame_of, kinds, _pairs(rollouts, "original_size"), _pairs(rollouts, "seen_size"))
    scores = reward.score(list(map(Item, replies, truths, frames, ids)))
    scored = {
        "trajectory_id": rollouts.column("trajectory_id").combine_chunks(),
        "reward": [score.reward for score in scores],
        **{term: [score.terms.get(term) for score in scores] for term in SCORE_TERMS},
    }
    return check(pa.Table.from_pydict(scored, schema=SCORES), SCORES, "reward output")


def _pairs(table: pa.Table, name: str) -> list[tuple[int, int]]:
    """A column of (width, height), ten times faster than through to_pylist."""
    sizes: Any = table.column(name).combine_chunks()
    flat = sizes.flatten().to_numpy(zero_copy_only=False).tolist()
    return list(zip(flat[::2], flat[1::2], strict=True))
