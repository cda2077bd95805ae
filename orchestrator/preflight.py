"""Everything that would stop a run, found before any of it starts, and all of it at once.

configuration -> method -> model files -> data -> longest sequence -> reward -> machines, memory, disk
                                                      every problem names field, value and remedy
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from orchestrator.cluster import connect
from orchestrator.data import Split, prompt_counter, read_dataset
from orchestrator.job import refuse_lost
from orchestrator.method_check import refuse_ineffective
from orchestrator.model_check import ModelFacts, check_model
from orchestrator.problems import Problem
from orchestrator.room import Node, check_disk, check_memory, check_placement, needs_of, this_machine
from pointing.dataset import DatasetError
from schemas.config import Resources, SftConfig, TrainConfig
from schemas.config_file import ConfigError
from schemas.task import Task
from services.custom import open_reward
from services.scoring import ScoringError

SAMPLE = 64  # rows of each file that are looked at unless all are asked for


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and lines for people."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def raise_if_any(self) -> None:
        """Raises ConfigError with one line per problem."""
        if self.problems:
            raise ConfigError("\n".join(map(str, self.problems)))


def check(config: TrainConfig | SftConfig, *, every_row: bool = False) -> Report:
    """Looks at everything; starts nothing. Of each data file the first rows are read, or all."""
    problems: list[Problem] = []
    notes: list[str] = []
    problems += check_paths(config) + check_method(config)
    facts = check_model(config.model, problems)
    if facts is not None:
        notes.append(f"model        {facts.info.family.name}, {facts.parameters / 1e6:,.1f} M parameters")
        tokenizer_works = not any("tokenizer" in p.detail or "chat template" in p.detail for p in problems)
        if tokenizer_works:
            longest = _check_data(config, None if every_row else SAMPLE, problems, notes)
            if isinstance(config, TrainConfig) and longest:
                problems += check_length(config, longest, notes)
    if isinstance(config, TrainConfig):
        problems += check_reward(config)
    problems += _check_room(config, facts, notes)
    return Report(tuple(problems), tuple(notes))


def check_paths(config: TrainConfig | SftConfig) -> list[Problem]:
    """Paths that mean nothing useful in a submitted job; see orchestrator.job."""
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


def _check_room(config: TrainConfig | SftConfig, facts: ModelFacts | None, notes: list[str]) -> list[Problem]:
    nodes, local = cluster_nodes(config.resources), False
    if not nodes:
        nodes, local = [this_machine(config)], True
    problems = check_placement(needs_of(config), nodes)
    notes.append(
        f"machines     {'this one' if local else f'{len(nodes)} of the cluster'}: {sum(n.gpus for n in nodes):g} GPUs; "
        f"{', '.join(f'{need.count} {need.role}' for need in needs_of(config))}"
    )
    if facts is not None:
        if local and not any(need.gpus for need in needs_of(config)):
            problems += check_memory(config, facts.parameters)
        problems += check_disk(config, facts.parameters)
    return problems


def cluster_nodes(resources: Resources) -> list[Node]:
    """The machines of the cluster that this process has joined, or that RAY_ADDRESS names; [] without one.

    Joins such a cluster, as the run will.
    """
    if not ray.is_initialized():
        if not os.environ.get("RAY_ADDRESS"):
            return []
        connect(resources)
    return [
        Node(str(node["NodeManagerHostname"]), node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]
