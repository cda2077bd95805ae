"""Where the processes of every role go: together or apart, and on which nodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.task import Record

LABEL = "pointvg.role"  # of a Ray node: ray start --labels pointvg.role=learner
Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


class Place(Record):
    """Placement of one role.

    PACK uses few nodes and SPREAD many, as far as there is room; the STRICT ones insist on one node, or on one for each
    process. `label` asks for nodes whose Ray label `pointvg.role` has this value.

    >>> Place(label="learner").selector
    {'pointvg.role': 'learner'}
    """

    strategy: Strategy = "PACK"
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")] | None = None

    @property
    def selector(self) -> dict[str, str]:
        """Ray's label selector: empty where any node will do."""
        return {LABEL: self.label} if self.label else {}


class Placement(Record):
    """Placement of all roles that hold a model. The reward service goes wherever there is a CPU."""

    rollout: Place = Place()
    learner: Place = Place()
    reference: Place = Place()
    critic: Place = Place()
