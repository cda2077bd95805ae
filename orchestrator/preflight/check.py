"""Everything that would stop a run, found before any of it starts, and all of it at once.

settings -> model files -> data -> longest sequence -> memory, disk -> reward -> machines
                                      every problem: setting, value, reason, remedy, and where it was set
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.preflight.critic_settings import backbone_problems
from orchestrator.preflight.data_files import check_data, check_length
from orchestrator.preflight.gpu_memory import gpu_memory_problems, memory_table
from orchestrator.preflight.host_resources import disk_problems, host_memory_problems
from orchestrator.preflight.job_paths import lost_paths
from orchestrator.preflight.machines import check_machines, cluster_nodes
from orchestrator.preflight.model_files import check_model
from orchestrator.preflight.problem import Findings, Problem, refuse
from orchestrator.preflight.reward_settings import reward_problems
from orchestrator.preflight.role_memory import RoleMemory, memory_plan
from orchestrator.preflight.step_estimate import step_table
from orchestrator.roles.placement import Node, plan_table, role_plans
from orchestrator.run_folder.mirror import mirror_of
from orchestrator.telemetry.trackers import missing_tracker
from policy.conversation.model_info import ModelInfo
from policy.network.footprint import Sizes, sizes_of
from schemas.config import SftConfig, TrainConfig
from schemas.config.file import Origins, SettingError

SAMPLE = 64  # rows of each file that are looked at unless all are asked for


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, lines for people, and what could not be looked at from here.

    `plan` is the table of roles, with what each needs of a GPU's memory and the estimate of a step.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    plan: str
    unchecked: tuple[str, ...]

    def raise_if_any(self) -> None:
        """Raises Refused with one line per problem."""
        refuse(self.problems)


def check(
    config: TrainConfig | SftConfig,
    *,
    origins: Origins = MappingProxyType({}),
    every_row: bool = False,
    starts_here: bool = True,
) -> Report:
    """Looks at everything; starts nothing. Of each data file the first rows are read, or all.

    `origins` say where each setting was made. With `starts_here` False the run is to start elsewhere: without a
    cluster, too small a machine is no problem.
    """
    plan = [plan_table(role_plans(config))]
    found = Findings((*lost_paths(config), *_mirror_problems(config), *_tracker_problems(config)))
    model = check_model(config.model)
    found += Findings(model.problems)
    sizes = None
    if model.info is not None and model.loads:
        sizes, problems = _measured(config)
        found += Findings(problems)
    if model.info is not None and sizes is not None:
        found += Findings(notes=(_model_line(model.info, sizes),))
    if model.info is not None and model.speaks:
        data = check_data(config, None if every_row else SAMPLE)
        found += data.findings
        if isinstance(config, TrainConfig) and data.longest:
            found += check_length(config, data.longest)
    nodes = cluster_nodes(config.resources)
    if sizes is not None:
        memory = memory_plan(config, sizes)
        plan.append(memory_table(memory))
        if isinstance(config, TrainConfig) and model.info is not None:
            plan.append(step_table(config, sizes, nodes, model.info.family.grid))
        found += _check_memory(config, memory, nodes) + Findings(disk_problems(config, sizes))
    if isinstance(config, TrainConfig):
        found += Findings((*reward_problems(config.reward), *(backbone_problems(config) if model.loads else ())))
    found += check_machines(config, nodes, starts_here=starts_here)
    problems = tuple(problem.at(origins) for problem in found.problems)
    return Report(problems, found.notes, "\n".join(filter(None, plan)), found.unchecked)


def _model_line(info: ModelInfo, sizes: Sizes) -> str:
    trained = "" if sizes.trained == sizes.weights else f", {sizes.trained / 1e6:,.1f} M of them trained"
    return f"model        {info.family.name}, {sizes.weights / 1e6:,.1f} M parameters{trained}"


def _measured(config: TrainConfig | SftConfig) -> tuple[Sizes | None, tuple[Problem, ...]]:
    """The model's sizes, or why it cannot be built."""
    try:
        return sizes_of(config.model), ()
    except SettingError as error:
        return None, (Problem.of(error),)
    except ValueError as error:  # adapters that fit no layer, a configuration without what the architecture needs
        field, value = ("model.path", config.model.path)
        if config.model.lora is not None:
            field, value = "model.lora.targets", config.model.lora.targets
        reason = f"the model cannot be built ({str(error).splitlines()[0]})"
        return None, (Problem(field, value, reason, "correct it, or use another model"),)


def _check_memory(config: TrainConfig | SftConfig, memory: Sequence[RoleMemory], nodes: Sequence[Node]) -> Findings:
    """Of GPUs, or of this machine where it is to hold everything."""
    if not any(role.gpus for role in memory):
        return Findings(() if nodes else host_memory_problems(config, memory))
    unchecked: list[str] = []
    if config.resources.gpu_memory_gib is None:
        unchecked.append("GPU memory: its size is not known; set resources.gpu_memory_gib to that of one GPU")
    if any("activations" not in role.parts for role in memory if role.role == "learner"):
        unchecked.append("GPU memory: activations, as nothing bounds a transcript; set learner.micro_batch_tokens")
    return Findings(gpu_memory_problems(config, memory), unchecked=tuple(unchecked))


def _tracker_problems(config: TrainConfig | SftConfig) -> Iterator[Problem]:
    """Whether the packages of run.trackers are installed."""
    missing = missing_tracker(config.run.trackers)
    if missing is not None:
        yield Problem.of(missing)


def _mirror_problems(config: TrainConfig | SftConfig) -> Iterator[Problem]:
    """Whether what checkpoint.mirror needs is installed; asks nothing of the other side."""
    try:
        mirror_of(config.run, config.checkpoint)
    except SettingError as error:
        yield Problem.of(error)
