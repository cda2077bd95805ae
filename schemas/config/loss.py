"""The policy-gradient loss: what each one reads, its defaults, what it divides by."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from schemas.task import Record

LossName = Literal["ppo_clip", "gspo", "gspo_token", "cispo", "sapo"]


# What each loss reads, with its defaults. Clip bounds are on the scale of the ratio they bound: GSPO's, a mean over a
# sequence, stays far closer to 1. CISPO as published has no lower bound.
LOSS_DEFAULTS: Mapping[LossName, Mapping[str, float | None]] = MappingProxyType(
    {
        "ppo_clip": {"clip_low": 0.2, "clip_high": 0.2, "clip_dual": 3.0},
        "gspo": {"clip_low": 3e-4, "clip_high": 4e-4, "clip_dual": None},
        "gspo_token": {"clip_low": 3e-4, "clip_high": 4e-4, "clip_dual": None},
        "cispo": {"clip_low": 0.999, "clip_high": 0.2},
        "sapo": {"tau_positive": 1.0, "tau_negative": 1.05},
    }
)


class Loss(Record):
    """The policy-gradient loss and what it divides by.

    What `name` reads of the clip bounds and taus starts from LOSS_DEFAULTS; the others stay None. clip_dual None means
    no bound.

    >>> Loss(name="sapo").tau_negative, Loss(name="sapo").clip_low
    (1.05, None)
    """

    name: LossName = "ppo_clip"
    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    clip_high: PositiveFloat | None = None
    clip_dual: PositiveFloat | None = None
    tau_positive: PositiveFloat | None = None
    tau_negative: PositiveFloat | None = None
    denominator: Literal["token", "sequence", "constant"] = "token"
    constant: PositiveFloat | None = None
    entropy_coefficient: NonNegativeFloat = 0.0

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        values = cast("dict[str, Any]", given)
        name = values.get("name", cls.model_fields["name"].default)
        own = next((defaults for known, defaults in LOSS_DEFAULTS.items() if known == name), {})  # {}: a wrong name
        return {**own, **values}

    @model_validator(mode="after")
    def _effective(self) -> Loss:
        reads = LOSS_DEFAULTS[self.name]
        fields = {field for defaults in LOSS_DEFAULTS.values() for field in defaults}
        unread = sorted(field for field in fields - reads.keys() if getattr(self, field) is not None)
        if unread:
            raise ValueError(
                f"loss {self.name!r} does not read {', '.join(unread)}; remove what has no effect (it reads "
                f"{', '.join(reads)})"
            )
        unset = [field for field in reads if field != "clip_dual" and getattr(self, field) is None]
        if unset:
            raise ValueError(f"loss {self.name!r} needs {', '.join(unset)}, given as null; leave out for the default")
        if self.clip_dual is not None and self.clip_high is not None and self.clip_dual <= 1 + self.clip_high:
            raise ValueError(
                f"clip_dual={self.clip_dual} must lie above 1 + clip_high={1 + self.clip_high}; raise it, or set null"
            )
        return self

    @model_validator(mode="after")
    def _constant_needed(self) -> Loss:
        if (self.denominator == "constant") != (self.constant is not None):
            raise ValueError(
                f"denominator={self.denominator!r} with constant={self.constant}: set constant exactly when "
                "denominator is 'constant' (Dr.GRPO: trajectories x longest reply)"
            )
        return self
