"""Parts of the RL method that a run may add: dynamic sampling, overlong shaping, the correction of sampler mismatch,
the use of a critic's values.
"""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from schemas.scoring import RewardRules, ScoreTerm
from schemas.task import Record

ScoreKey = Literal["reward", ScoreTerm]


def score_range(key: ScoreKey, rules: RewardRules) -> tuple[float, float]:
    """Smallest and largest value that a column of scores can take under the built-in reward.

    >>> score_range("reward", RewardRules(negative_max=10.0)), score_range("obj_iou", RewardRules())
    ((0.0, 10.0), (0.0, 1.0))
    """
    if key == "reward":
        return 0.0, max(rules.maximum, rules.negative_max)
    if key == "neg":
        return 0.0, rules.negative_max
    if key in ("tool_count", "obj_box_count"):
        return 0.0, float("inf")
    return (-1.0 if key == "ray_cos" and rules.ray_above_chance else 0.0), 1.0


class DynamicSampling(Record):
    """Groups that teach nothing are replaced by groups of new tasks (DAPO).

    A group is kept if max - min of `key` over its samples is above `min_spread` and its mean lies strictly between
    `low` and `high`, all in the units of the key. A group that the key does not apply to (`obj_iou` of a negative task)
    is kept if its rewards differ.

    >>> DynamicSampling(key="obj_iou", min_spread=0.05).max_rounds
    4
    """

    key: ScoreKey = "reward"
    min_spread: NonNegativeFloat = 0.0
    low: float | None = None
    high: float | None = None
    max_rounds: Annotated[int, Field(ge=2)] = 4  # rounds of generation in one step, the first counted

    @model_validator(mode="after")
    def _bounds(self) -> DynamicSampling:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}: no group could be kept; swap them")
        return self

    def refuse(self, rules: RewardRules | None, samples_per_task: int) -> None:
        """Raises ValueError where no group could be kept, or a bound lies where the key never is.

        `rules` are those of the built-in reward; of a reward of one's own (None) the range is not known.
        """
        if samples_per_task < 2:
            raise ValueError(
                f"algorithm.dynamic_sampling with rollout.samples_per_task={samples_per_task}: a group of one has no "
                "spread and would always be dropped; draw at least 2 samples, or remove it"
            )
        if rules is None:
            return
        least, most = score_range(self.key, rules)
        where = f"algorithm.dynamic_sampling: key {self.key!r} lies in [{least:g}, {most:g}]"
        if self.min_spread >= most - least:
            raise ValueError(f"{where}; min_spread={self.min_spread} would drop every group, lower it")
        for name, value in (("low", self.low), ("high", self.high)):
            if value is not None and not (least <= value <= most and isfinite(value)):
                raise ValueError(f"{where}; {name}={value} lies outside, set it within or remove it")


class Overlong(Record):
    """Soft punishment of long replies (DAPO): nothing up to limit - buffer sampled tokens, then falling linearly to
    -penalty at `limit`, and -penalty beyond.

    `penalty` is in the units of the reward. `per` says what is measured: all sampled tokens of a trajectory, or those
    of its longest turn, which is what max_tokens_per_turn cuts.

    >>> Overlong(limit=80, buffer=20).per
    'trajectory'
    """

    limit: PositiveInt
    buffer: PositiveInt
    penalty: PositiveFloat = 1.0
    per: Literal["trajectory", "turn"] = "trajectory"

    @model_validator(mode="after")
    def _order(self) -> Overlong:
        if self.buffer > self.limit:
            raise ValueError(f"buffer={self.buffer} is above limit={self.limit}; even an empty reply would be punished")
        return self

    def refuse(self, max_turns: int, max_tokens_per_turn: int) -> None:
        """Raises ValueError if no reply can be long enough to be punished."""
        longest = max_tokens_per_turn * (max_turns if self.per == "trajectory" else 1)
        if self.limit - self.buffer >= longest:
            raise ValueError(
                f"algorithm.overlong: punishment starts above {self.limit - self.buffer} tokens per {self.per}, and "
                f"none has more than {longest} (rollout.max_turns={max_turns} x max_tokens_per_turn="
                f"{max_tokens_per_turn}); lower limit, or remove overlong"
            )


class Mismatch(Record):
    """Importance weights between what the sampler and the learner believe of the same tokens.

    "truncate": the ratio, at most `limit`. "mask": the ratio, and no gradient where it leaves [low, limit].

    >>> Mismatch(mode="mask", limit=5.0, low=0.5).level
    'token'
    """

    level: Literal["token", "sequence"] = "token"
    mode: Literal["truncate", "mask"] = "truncate"
    limit: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 2.0
    low: Annotated[float, Field(gt=0.0, le=1.0)] | None = None  # of "mask"; None: 1 / limit

    @model_validator(mode="after")
    def _effective(self) -> Mismatch:
        if self.mode == "truncate" and self.low is not None:
            raise ValueError(f"low={self.low} has no effect with mode='truncate'; remove it, or set mode='mask'")
        return self


class Gae(Record):
    """How advantage 'gae' uses the critic's values; the discount is algorithm.gamma.

    >>> Gae().return_lam
    1.0
    """

    lam: Annotated[float, Field(ge=0.0, le=1.0)] = 0.95  # trace of the advantages: 0 trusts the next value, 1 rewards
    return_lam: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0  # trace of the returns that the critic learns
    whiten: bool = True  # advantages to mean 0 and variance 1 over the sampled tokens of a step
