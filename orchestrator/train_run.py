"""One training run from a configuration: folder, data, cluster, loop, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from actors.group import GroupError
from orchestrator.after_step import Watch
from orchestrator.batch.progress import Position, Progress, total_steps
from orchestrator.batch.tasks import Split, read_split
from orchestrator.evaluation.evaluate import Evaluation, evaluate
from orchestrator.loop import train
from orchestrator.preflight.check import check
from orchestrator.preflight.critic_settings import pretrain_problems
from orchestrator.preflight.job_paths import unshared_paths
from orchestrator.preflight.machines import room_problems
from orchestrator.preflight.problem import refuse
from orchestrator.recovery.stop import STOP, GraceOver, Stopped
from orchestrator.report.page import report_at_end
from orchestrator.roles.cluster import Cluster, Players, connect, recoveries_of
from orchestrator.roles.placement import nodes_of, role_plans
from orchestrator.run_folder.checkpoints import continue_from
from orchestrator.run_folder.folder import RunExistsError, RunFolder, open_run, run_folder
from orchestrator.run_folder.lock import locked
from orchestrator.run_folder.mirror import bring_back
from orchestrator.run_folder.resumable_settings import digest
from orchestrator.telemetry.metrics import MetricsLog, screen
from policy.state.checkpoint import CheckpointError, read_extra
from schemas.config import TrainConfig
from schemas.task import Task


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves: its folder, and the validations before and after (None when not made in this call).

    `earned` says whether any reply of a step had a reward; `recoveries` are the numbers of what was lost and brought
    back in this call.
    """

    folder: RunFolder
    steps: int
    before: Evaluation | None
    after: Evaluation | None
    earned: bool
    recoveries: Mapping[str, float]


def run_training(config: TrainConfig) -> RunResult:
    """Trains as configured, continuing from the run folder's last checkpoint if it holds one.

    Everything that can be refused is refused before Ray starts. Raises Stopped when a signal ended the run.
    """
    report = check(config)
    report.raise_if_any()
    tasks = read_split(config, "train")
    validation = read_split(config, "validation")
    steps = total_steps(config, len(tasks))
    refuse(pretrain_problems(config, steps))
    with locked(run_folder(config.run).root):
        folder = open_run(config.run, config)
        bring_back(folder, config.run, config.checkpoint, print)
        found = continue_from(folder, config.run, print)
        print(f"run folder   {folder.root}" + ("" if found is None else f" (continuing from step {found} of {steps})"))
        print(f"data         {len(tasks)} training tasks, {len(validation)} validation tasks")
        print(f"batch plan   {config.plan}; {steps} steps", flush=True)
        if config.critic_plan:
            print(f"critic plan  {config.critic_plan}; alone for the first {config.pretrain_steps} steps", flush=True)
        print(report.plan, flush=True)
        position = Position() if found is None else restored(folder, found, config)
        connect(config.resources)
        refuse(unshared_paths(folder, config, tasks))
        with STOP.heeded(config.run.grace_s):
            return _run(config, folder, found, Progress(config, tasks, position), validation)


def _run(
    config: TrainConfig, folder: RunFolder, found: int | None, progress: Progress, validation: Sequence[Task]
) -> RunResult:
    log = MetricsLog(folder.root, progress.position.step, config.run.trackers)
    steps = progress.total_steps
    print("starting     " + ", ".join(f"{plan.count} {plan.role}" for plan in role_plans(config)), flush=True)
    began = time.monotonic()
    cluster = Cluster(config, steps)
    try:
        cluster.start(None if found is None else str(folder.checkpoint(found)))
        cluster.publish_weights(version=progress.position.step)
        print(f"started      in {time.monotonic() - began:.0f} s", flush=True)
        shown = screen(steps, progress.position.step)
        watch = Watch(config, cluster, folder, validation, log, shown, last_saved=found)
        try:
            train(config, cluster, progress, watch)
        except (GraceOver, GroupError):
            raise
        except Stopped as stopped:
            watch.save(progress)
            watch.checkpoints.finish_last()
            where = folder.checkpoint(progress.position.step)
            raise stopped.after(f"{where} is written, and the same command continues from it") from None
        except Exception:
            with contextlib.suppress(CheckpointError, GroupError):  # what failed matters more
                watch.checkpoints.finish()
            raise
        finally:
            shown.close()
    finally:
        log.close()
        if config.run.timeline:
            ray.timeline(str(folder.root / "timeline.json"))
        cluster.shutdown()
    report_at_end(folder, config)
    earned = watch.earned or progress.position.step == (found or 0)  # or there was no step to take
    return RunResult(folder, steps, watch.first, watch.last, earned, cluster.recoveries.numbers())


def restored(folder: RunFolder, step: int, config: TrainConfig) -> Position:
    """The position that a checkpoint holds. Raises RunExistsError if it was made with settings that matter changed."""
    extra = read_extra(folder.checkpoint(step))
    if extra["settings"] != digest(config):
        raise RunExistsError(
            f"{folder.checkpoint(step)} was written with other settings than those of now (compare "
            f"{folder.root / 'config.yaml'}); set run.name=... for a new run, or use the old settings"
        )
    return Position.from_json(extra)


def run_evaluation(config: TrainConfig, split: Split) -> Evaluation:
    """Plays a held-out split with config.model and config.validation's sampling. Trains nothing.

    Raises ValueError when the split has no files.
    """
    tasks = read_split(config, split)
    if not tasks:
        raise ValueError(f"data.{split}_files is empty; name the files to evaluate on")
    connect(config.resources)
    if not config.resources.autoscaled:
        started = [plan for plan in role_plans(config) if plan.role in ("rollout", "reward")]
        refuse(room_problems(started, nodes_of(ray.nodes())))
    players = Players(config, recoveries_of(config))
    try:
        return evaluate(players, tasks[: config.validation.limit], config.validation, version=0, step=0)
    finally:
        players.shutdown()
