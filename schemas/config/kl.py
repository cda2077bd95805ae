"""The distance to the reference model."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from schemas.config.effect import refuse_unread
from schemas.task import Record


class Kl(Record):
    """Distance to the reference model, as a term of the loss or taken off the reward of each sampled token.

    Coefficient 0 starts no reference model. `full` is the exact KL over the vocabulary: the learner then holds the
    reference itself, and no reference actor is started.
    """

    coefficient: NonNegativeFloat = 0.01
    place: Literal["loss", "reward"] = "loss"
    estimator: Literal["k1", "abs", "k2", "k3", "full"] = "k3"
    controller: Literal["fixed", "adaptive"] = "fixed"
    target: PositiveFloat | None = None  # of the adaptive controller: mean KL per trained token
    horizon: PositiveFloat | None = None  # of the adaptive controller: sequences

    @model_validator(mode="after")
    def _effective(self) -> Kl:
        if self.controller == "fixed" and (self.target is not None or self.horizon is not None):
            raise ValueError("target and horizon have no effect with controller='fixed'; remove them or set 'adaptive'")
        if self.controller == "adaptive" and (self.target is None or self.horizon is None):
            raise ValueError("controller='adaptive' needs target and horizon; 0.1 and 10000 are usual")
        if self.coefficient == 0 and self.controller == "adaptive":
            raise ValueError("an adaptive controller cannot move a coefficient of 0; start it above 0")
        if self.coefficient == 0:
            remedy = "raise the coefficient, or remove it"
            refuse_unread(self, "with coefficient=0, which measures no KL", "place", "estimator", remedy=remedy)
        if self.coefficient > 0 and self.place == "loss" and self.estimator == "k1":
            raise ValueError("estimator='k1' in the loss has an expected gradient of 0; use k2, k3 or full")
        if self.place == "reward" and self.exact:
            raise ValueError(
                "place='reward' with estimator='full': the sampler would have to send its probability of every id in "
                "the vocabulary for every token; use k1 or k3 in the reward, or place='loss'"
            )
        return self

    @property
    def exact(self) -> bool:
        """Whether the KL is summed over the vocabulary."""
        return self.estimator == "full"
