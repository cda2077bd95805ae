"""Processes of each role: how many, what Ray reserves for each, and on which nodes they go."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from schemas.config.effect import refuse_unread
from schemas.task import Record

LABEL = "pointvg.role"  # of a Ray node: ray start --labels pointvg.role=learner
Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
Transfer = Literal["object_store", "nccl"]
# By Ray's names, and two more boards of the H100; policy/network/hardware.py has what each does in a second.
GpuKind = Literal["A100", "A100-40G", "B200", "H100", "H100-NVL", "H100-PCIe", "H200", "L4", "L40S"]
# Flat names of earlier configurations, and where their values stand now.
MOVED = MappingProxyType(
    {
        "rollout_engines": "rollout.count",
        "learner_ranks": "learner.count",
        "reference_replicas": "reference.count",
        "critic_ranks": "critic.count",
        "cpus_per_engine": "rollout.cpus",
        "cpus_per_learner": "learner.cpus",
        "cpus_per_reference": "reference.cpus",
        "cpus_per_critic": "critic.cpus",
        "gpus_per_engine": "rollout.gpus",
        "gpus_per_learner": "learner.gpus",
        "gpus_per_reference": "reference.gpus",
        "gpus_per_critic": "critic.gpus",
        "placement": "ROLE.place",
    }
)


class Place(Record):
    """Where the processes of one role go.

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


class Role(Record):
    """The processes of one role: their number, and what each reserves. A share of a GPU is of one GPU.

    >>> Role(count=4, gpus=0.5).total_cpus
    4.0
    """

    count: PositiveInt = 1
    cpus: NonNegativeFloat = 1.0
    gpus: NonNegativeFloat = 0.0
    place: Place = Place()

    @property
    def total_cpus(self) -> float:
        """Logical CPUs that all of its processes reserve together."""
        return self.count * self.cpus

    @model_validator(mode="after")
    def _whole_gpus(self) -> Role:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus={self.gpus}: a share is of one GPU; set a whole number, or less than 1")
        return self


class SftResources(Record):
    """What a run asks of its machines, and how long it waits for them. Threads are set for every process.

    The roles are those of stage 1: the learner alone.
    """

    learner: Role = Role()
    threads: PositiveInt = 1
    gpu_memory_gib: PositiveFloat | None = None  # of one GPU; given, a plan that needs more is refused
    gpu_kind: GpuKind | None = None  # for utilisation and the estimate of a step; None: what the cluster says
    gpu_peak_tflops: PositiveFloat | None = None  # of one GPU, dense bfloat16, in place of its kind's
    autoscaled: bool = False  # nodes come when they are asked for: do not refuse by those there are at the start
    object_store_bytes: PositiveInt | None = None
    start_timeout_s: PositiveFloat = 600.0
    call_timeout_s: PositiveFloat = 1800.0
    collective_timeout_s: PositiveFloat = 120.0
    silence_timeout_s: PositiveFloat = 60.0  # a process that gives no sign of life for so long is replaced
    max_restarts: NonNegativeInt = 10  # lost parts brought back within an hour before the run ends; 0: none

    @property
    def roles(self) -> Mapping[str, Role]:
        """Every role that holds a model, by name."""
        return {"learner": self.learner}

    @property
    def total_cpus(self) -> float:
        """Logical CPUs that all roles reserve together."""
        return sum(role.total_cpus for role in self.roles.values())

    @model_validator(mode="after")
    def _kinds_of_gpus_that_are_there(self) -> SftResources:
        if not any(role.gpus for role in self.roles.values()):
            refuse_unread(self, "where no role has a GPU", "gpu_kind", "gpu_peak_tflops")
        return self

    @model_validator(mode="before")
    @classmethod
    def _named_by_role(cls, given: Any) -> Any:
        for old in MOVED.keys() & given if isinstance(given, dict) else ():
            value = cast("dict[str, Any]", given)[old]
            raise ValueError(f"{old}={value!r} is set by role now; use resources.{MOVED[old]}")
        return given


class Resources(SftResources):
    """As in stage 1, with the roles of stage 2. The reward service goes wherever there is a CPU."""

    rollout: Role = Role()
    reference: Role = Role()
    critic: Role = Role()  # started only with a critic section
    weight_transfer: Transfer = "object_store"

    @property
    def roles(self) -> Mapping[str, Role]:
        """Every role that holds a model, by name."""
        named = {"rollout": self.rollout, "learner": self.learner}
        return named | {"reference": self.reference, "critic": self.critic}

    @model_validator(mode="after")
    def _nccl_between_gpus(self) -> Resources:
        if self.weight_transfer == "nccl" and not (self.rollout.gpus and self.learner.gpus):
            raise ValueError(
                "weight_transfer='nccl' needs GPUs on both sides; set rollout.gpus and learner.gpus, or use "
                "'object_store'"
            )
        return self
