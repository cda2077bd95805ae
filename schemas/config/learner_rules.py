"""Rules that the learner's options share in both stages, and the critic's with them."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.config.learner import Learner
from schemas.config.resources import Role
from schemas.config.run import Run
from schemas.config.types import DType


def require_float32(run: Run, types: Mapping[str, DType]) -> None:
    """Raises ValueError where run.deterministic meets a type whose sums depend on how a batch is cut."""
    for field, dtype in types.items():
        if run.deterministic and dtype != "float32":
            raise ValueError(f"run.deterministic=true needs {field}=float32, it is {dtype!r}; change one of them")


def require_whole_copies(section: str, learner: Learner, role: Role) -> None:
    """Raises ValueError where ranks do not make whole copies of the model; `section` is learner or critic."""
    copy = learner.sharding.ranks
    if copy is not None and role.count % copy:
        raise ValueError(
            f"resources.{section}.count={role.count} is no multiple of {section}.sharding.ranks={copy}; change one of "
            "them"
        )


def refuse_gpu_options_without_gpus(section: str, learner: Learner, role: Role) -> None:
    """Raises ValueError for options that nothing reads on a CPU; `section` is learner or critic."""
    for name, asked in (("sharding.cpu_offload", learner.sharding.cpu_offload), ("compile", learner.compile)):
        if asked and not role.gpus:
            raise ValueError(f"{section}.{name} has no effect without GPUs; set resources.{section}.gpus or remove it")
