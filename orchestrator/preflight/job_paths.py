"""What a submitted Ray job can know before and after it joins the cluster: will its results survive, will its files be
found on every node.

    ray job submit --working-dir . -->  a copy in a folder that Ray deletes: results must be written elsewhere
    nodes with the roles           -->  must see the same run folder, model and data
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.batch.tasks import SPLITS, files_of
from orchestrator.preflight.problem import Problem
from orchestrator.run_folder.folder import RunFolder
from schemas.config import SftConfig, SftResources, TrainConfig
from schemas.task import Task

MOUNT = "put it on storage that every node mounts at that path"
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray's job server in the process of the entrypoint


def uploaded(environment: Mapping[str, str] = os.environ) -> bool:
    """True in a submitted job that runs in a copy of its submitter's working directory."""
    given = json.loads(environment.get(_JOB_CONFIG, "{}"))
    return bool(given.get("runtime_env", {}).get("working_dir"))


def lost_paths(config: TrainConfig | SftConfig, environment: Mapping[str, str] = os.environ) -> Iterator[Problem]:
    """Relative paths that mean nothing useful in an uploaded working directory."""
    if not uploaded(environment):
        return
    if not Path(config.run.folder).is_absolute():
        yield Problem(
            "run.folder",
            config.run.folder,
            "lies in the job's copy of the working directory, which Ray deletes with the results in it",
            "give an absolute path on storage that every node sees",
        )
    unpack_dir = config.data.unpack_dir
    if unpack_dir is not None and not Path(unpack_dir).is_absolute():
        yield Problem("data.unpack_dir", unpack_dir, "is on the driver's node alone", MOUNT)
    for field, path in _inputs(config):
        if not Path(path).is_absolute() and not Path(path).exists():
            yield Problem(
                field,
                path,
                "was not uploaded with the job (see .rayignore and .gitignore)",
                "give an absolute path on storage that every node sees, or keep what is small where it is uploaded",
            )


def _inputs(config: TrainConfig | SftConfig) -> Iterator[tuple[str, str]]:
    yield "model.path", config.model.path
    for split in SPLITS:
        for file in files_of(config.data, split):
            yield f"data.{split}_files", file


def unshared_paths(folder: RunFolder, config: TrainConfig | SftConfig, tasks: Iterable[Task]) -> tuple[Problem, ...]:
    """Asks every node that a role can land on whether it sees the run folder, the model and the images.

    Costs nothing on a cluster of one node. Call it once connected.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and _takes_a_role(node["Resources"], config.resources)]
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node["NodeID"] != here]
    if not others:
        return ()
    word = secrets.token_hex(8)  # a folder of the same name on another node's own disk does not hold it
    probe = folder.root / ".seen-by-every-node"
    probe.write_text(word, encoding="ascii")
    first = next(iter(tasks), None)
    paths = {"model.path": f"{config.model.path}/config.json"}
    if first is not None:
        paths["data.image_dir"] = first.images[0]
    try:
        look = ray.remote(num_cpus=0, max_retries=1)(_unseen)
        asked = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(probe.resolve()), word, paths
            )
            for node in others
        ]
        answers: list[list[tuple[str, str]]] = ray.get(asked, timeout=config.resources.start_timeout_s)
    finally:
        probe.unlink()
    return tuple(
        Problem(field, path, f"node {node['NodeManagerAddress']} does not see it", MOUNT)
        for node, unseen in zip(others, answers, strict=True)
        for field, path in unseen
    )


def _takes_a_role(has: Mapping[str, float], resources: SftResources) -> bool:
    """Whether the smallest of the roles that read or write files fits on a node."""
    return any(
        has.get("CPU", 0.0) >= max(role.cpus, 0.001) and has.get("GPU", 0.0) >= role.gpus
        for role in resources.roles.values()
    )


def _unseen(probe: str, word: str, paths: Mapping[str, str]) -> list[tuple[str, str]]:
    """Runs on the node that is asked: the settings and paths that it does not find."""
    missing = [(field, path) for field, path in paths.items() if not Path(path).exists()]
    file = Path(probe)
    if not file.is_file() or file.read_text(encoding="ascii") != word:
        missing.append(("run.folder", str(file.parent)))
    return missing
