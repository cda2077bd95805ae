"""Everything that would stop a run, found before any of it starts, and all of it at once.

configuration -> method -> model files -> data -> longest sequence -> memory, disk -> reward -> machines
                                                      every problem names field, value and remedy
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from orchestrator.batch.tasks import Split, prompt_counter, read_dataset
from orchestrator.preflight.gpu_memory import memory_plan, memory_table, refuse_memory
from orchestrator.preflight.host_resources import check_disk, check_memory, this_machine
from orchestrator.preflight.job_paths import refuse_lost
from orchestrator.preflight.method import refuse_ineffective
from orchestrator.preflight.model_files import check_model
from orchestrator.preflight.problem import Problem
from orchestrator.roles.cluster import connect
from orchestrator.roles.placement import COUNT_FIELD, REMEDY, Node, nodes_of, plan_table, role_plans, unplaced
from orchestrator.run_folder.mirror import mirror_of
from pointing.dataset import DatasetError
from policy.network.footprint import sizes_of
from policy.network.load import refuse_attention
from schemas.config import Model, Resources, SftConfig, TrainConfig
from schemas.config_file import ConfigError
from schemas.task import Task
from services.reward.custom import open_reward
from services.reward.scoring import ScoringError

SAMPLE = 64  # rows of each file that are looked at unless all are asked for


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, lines for people, and what could not be looked at from here.

    `plan` is the table of roles, with what each needs of a GPU's memory.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    plan: str
    unchecked: tuple[str, ...]

    def raise_if_any(self) -> None:
        """Raises ConfigError with one line per problem."""
        if self.problems:
            raise ConfigError("\n".join(map(str, self.problems)))


def check(config: TrainConfig | SftConfig, *, every_row: bool = False, starts_here: bool = True) -> Report:
    """Looks at everything; starts nothing. Of each data file the first rows are read, or all.

    With `starts_here` False the run is to start elsewhere: without a cluster, too small a machine is no problem.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    plan = [plan_table(role_plans(config))]
    unchecked: list[str] = []
    problems += check_paths(config) + check_method(config) + check_mirror(config)
    facts = check_model(config.model, problems)
    if facts is not None:
        notes.append(f"model        {facts.info.family.name}, {facts.parameters / 1e6:,.1f} M parameters")
        tokenizer_works = not any("tokenizer" in p.detail or "chat template" in p.detail for p in problems)
        if tokenizer_works:
            longest = _check_data(config, None if every_row else SAMPLE, problems, notes)
            if isinstance(config, TrainConfig) and longest:
                problems += check_length(config, longest, notes)
        if isinstance(config, TrainConfig) and not any(p.field == "model.path" for p in problems):
            problems += check_gpu_memory(config, plan, unchecked)
        on_gpus = any(role.gpus for role in role_plans(config))
        if not on_gpus and not cluster_nodes(config.resources):
            problems += check_memory(config, facts.parameters)
        problems += check_disk(config, facts.parameters)
        if on_gpus and isinstance(config, SftConfig):
            unchecked.append("GPU memory: it is not estimated for supervised fine-tuning")
    problems += check_attention(config.model)
    if isinstance(config, TrainConfig):
        problems += check_reward(config)
    problems += check_placement(config, starts_here, unchecked)
    return Report(tuple(problems), tuple(notes), "\n".join(plan), tuple(unchecked))


def check_paths(config: TrainConfig | SftConfig) -> list[Problem]:
    """Paths that mean nothing useful in a submitted job; see orchestrator.preflight.job_paths."""
    try:
        refuse_lost(config)
    except ConfigError as error:
        found = [re.match(r"([\w.]+)='(.*?)' (.*)", line) for line in str(error).splitlines()]
        return [Problem(*match.groups()) for match in found if match is not None]
    return []


def check_method(config: TrainConfig | SftConfig) -> list[Problem]:
    """Parts of the method that do not work together."""
    if isinstance(config, SftConfig):
        return []
    try:
        refuse_ineffective(config)
    except ConfigError as error:
        name = config.algorithm.advantage
        return [Problem("algorithm.advantage", name, line) for line in str(error).splitlines()]
    return []


def check_attention(model: Model) -> list[Problem]:
    """An attention that this environment cannot compute."""
    try:
        refuse_attention(model)
    except ValueError as error:
        return [Problem("model.attention", model.attention, str(error).partition(": ")[2])]
    return []


def check_mirror(config: TrainConfig | SftConfig) -> list[Problem]:
    """Whether what checkpoint.mirror needs is installed; asks nothing of the other side."""
    try:
        mirror_of(config.run, config.checkpoint)
    except ConfigError as error:
        return [Problem("checkpoint.mirror", config.checkpoint.mirror, str(error).partition(": ")[2])]
    return []


def _check_data(config: TrainConfig | SftConfig, limit: int | None, problems: list[Problem], notes: list[str]) -> int:
    """Reads every split; the tokens of the longest prompt among its usable rows."""
    count = prompt_counter(config.model, config.data)
    longest = 0
    splits: dict[Split, Sequence[str] | str] = {
        "train": config.data.train_files,
        "validation": config.data.validation_files,
        "test": config.data.test_files,
    }
    for split, files in splits.items():
        if not files:
            continue

        def counted(task: Task) -> int:
            nonlocal longest
            tokens = count(task)
            if tokens <= config.data.max_prompt_tokens:
                longest = max(longest, tokens)
            return tokens

        names = (files,) if isinstance(files, str) else tuple(files)
        try:
            dataset = read_dataset(config.data, names, counted, limit)
        except (DatasetError, OSError) as error:
            problems.append(Problem(f"data.{split}_files", files, str(error)))
            continue
        looked = "all rows" if limit is None else f"the first {limit} rows of each file"
        left_out = f", {len(dataset.rejected)} unusable, {dataset.overlong} too long"
        notes.append(f"data         {split}: {len(dataset.tasks)} tasks{left_out} ({looked})")
    return longest


def check_length(config: TrainConfig, longest: int, notes: list[str]) -> list[Problem]:
    """Whether the longest prompt leaves the first turn its tokens; a note where later turns may be cut short."""
    engine, rollout = config.rollout.engine, config.rollout
    whole = longest + rollout.max_turns * rollout.max_tokens_per_turn
    if longest + rollout.max_tokens_per_turn > engine.max_model_len:
        return [
            Problem(
                "rollout.engine.max_model_len",
                engine.max_model_len,
                f"the longest prompt has {longest} tokens, which with rollout.max_tokens_per_turn="
                f"{rollout.max_tokens_per_turn} is more; raise it to {whole} or above, or lower data.max_prompt_tokens "
                "or data.max_pixels",
            )
        ]
    cut = "" if whole <= engine.max_model_len else ": the longest episodes will be cut short (ended/length_limit)"
    notes.append(
        f"length       prompts of up to {longest} tokens + {rollout.max_turns} turns of {rollout.max_tokens_per_turn} "
        f"= {whole}, and what is shown between them, of {engine.max_model_len}{cut}"
    )
    return []


def check_reward(config: TrainConfig) -> list[Problem]:
    """Loads the user's function in a process of its own, as the service will; looks for the service's token."""
    reward, problems = config.reward, list[Problem]()
    if reward.function is not None:
        try:
            open_reward(reward).close()
        except ScoringError as error:
            problems.append(Problem("reward.function", reward.function, f"{str(error).splitlines()[0]}; correct it"))
    if reward.port is not None and reward.token_env is not None and not os.environ.get(reward.token_env):
        problems.append(
            Problem("reward.token_env", reward.token_env, "that environment variable is not set; export the token")
        )
    return problems


def check_gpu_memory(config: TrainConfig, plan: list[str], unchecked: list[str]) -> list[Problem]:
    """Whether the GPUs of resources.gpu_memory_gib hold their roles; the estimate goes into the plan."""
    if not any(role.gpus for role in role_plans(config)):
        return []
    memory = memory_plan(config, sizes_of(config.model))
    plan.append(memory_table(memory))
    if config.resources.gpu_memory_gib is None:
        unchecked.append("GPU memory: its size is not known; set resources.gpu_memory_gib to that of one GPU")
    try:
        refuse_memory(config, memory)
    except ConfigError as error:
        return [Problem("resources.gpu_memory_gib", config.resources.gpu_memory_gib, str(error))]
    return []


def check_placement(config: TrainConfig | SftConfig, starts_here: bool, unchecked: list[str]) -> list[Problem]:
    """Whether the roles find room on the cluster, or on this machine where there is none."""
    plans = role_plans(config)
    nodes = cluster_nodes(config.resources)
    reason = unplaced(plans, nodes or [this_machine(config)])
    if nodes and len(nodes) > 1:
        unchecked.append("files: each node is asked whether it sees run folder, model and images when the run starts")
    if reason is None:
        return []
    if nodes and config.resources.autoscaled:
        unchecked.append(f"machines: resources.autoscaled=true, and more nodes must come before the start ({reason})")
        return []
    if not nodes and not starts_here:
        unchecked.append(
            "machines: RAY_ADDRESS names no cluster, and this machine, where the run would start, cannot hold the "
            f"roles ({reason}). Check again with RAY_ADDRESS set"
        )
        return []
    role = reason.partition(":")[0]
    count = next(plan.count for plan in plans if plan.role == role)
    where = "cluster" if nodes else "machine"
    return [Problem(COUNT_FIELD[role], count, f"the {where} cannot hold the roles: {reason}; {REMEDY}")]


def cluster_nodes(resources: Resources) -> tuple[Node, ...]:
    """The machines of the cluster that this process has joined, or that RAY_ADDRESS names; () without one.

    Joins such a cluster, as the run will.
    """
    if not ray.is_initialized():
        if not os.environ.get("RAY_ADDRESS"):
            return ()
        connect(resources)
    return nodes_of(ray.nodes())
