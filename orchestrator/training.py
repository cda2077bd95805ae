"""One training run from a configuration: folder, data, cluster, loop, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ray

from algorithms.estimators import refuse
from orchestrator.cluster import Cluster, Players, connect
from orchestrator.critic import refuse_critic
from orchestrator.data import Split, read_split
from orchestrator.evaluate import Evaluation, evaluate
from orchestrator.folder import RunFolder, open_run
from orchestrator.job import refuse_lost, refuse_unshared
from orchestrator.loop import train
from orchestrator.metrics import MetricsLog, screen
from orchestrator.progress import Position, Progress, total_steps
from orchestrator.watch import Watch
from policy.checkpoint import read_extra
from policy.learner import PolicyLearner
from schemas.config import TrainConfig
from schemas.config_file import ConfigError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run leaves: its folder, and the validations before and after (None when not made in this call)."""

    folder: RunFolder
    steps: int
    before: Evaluation | None
    after: Evaluation | None


def run_training(config: TrainConfig) -> Outcome:
    """Trains as configured, continuing from the run folder's last checkpoint if it holds one.

    Everything that can be refused is refused before Ray starts.
    """
    refuse_ineffective(config)
    refuse_lost(config)
    tasks = read_split(config, "train")
    validation = read_split(config, "validation")
    steps = total_steps(config, len(tasks))
    refuse_critic(config, steps)
    folder = open_run(config.run, config)
    found = folder.steps()
    print(f"run folder   {folder.root}" + (f" (continuing from step {found[-1]} of {steps})" if found else ""))
    print(f"data         {len(tasks)} training tasks, {len(validation)} validation tasks")
    print(f"batch plan   {config.plan}; {steps} steps", flush=True)
    if config.critic_plan:
        print(f"critic plan  {config.critic_plan}; alone for the first {config.pretrain_steps} steps", flush=True)

    connect(config.resources)
    refuse_unshared(folder, config, tasks)
    log = MetricsLog(folder.root)
    cluster = Cluster(config, steps)
    try:
        extra = cluster.start(str(folder.checkpoint(found[-1])) if found else None)
        progress = Progress(config, tasks, Position.from_json(extra) if found else Position())
        cluster.publish_weights(version=progress.position.step)
        shown = screen(steps, progress.position.step)
        watch = Watch(config, cluster, folder, validation, log, shown)
        try:
            train(config, cluster, progress, watch)
        finally:
            shown.close()
    finally:
        log.close()
        if config.run.timeline:
            ray.timeline(str(folder.root / "timeline.json"))
        cluster.shutdown()
    return Outcome(folder, steps, watch.first, watch.last)


def refuse_ineffective(config: TrainConfig) -> None:
    """Raises ConfigError for a method whose parts do not work together; see algorithms.estimators.refuse."""
    algorithm = config.algorithm
    reasons = refuse(
        advantage=algorithm.advantage,
        loss=algorithm.loss.name,
        samples_per_task=config.rollout.samples_per_task,
        adaptive=algorithm.adaptive is not None,
        kl_loss=algorithm.kl.estimator if config.uses_reference and algorithm.kl.place == "loss" else None,
        gamma_set=algorithm.gamma is not None,
        gae_set=algorithm.gae is not None,
    )
    if reasons:
        raise ConfigError("\n".join(f"algorithm: {reason}" for reason in reasons))


def run_evaluation(config: TrainConfig, split: Split) -> Evaluation:
    """Plays a held-out split with config.model and config.validation's sampling. Trains nothing.

    Raises ValueError when the split has no files.
    """
    tasks = read_split(config, split)
    if not tasks:
        raise ValueError(f"data.{split}_files is empty; name the files to evaluate on")
    connect(config.resources)
    players = Players(config)
    try:
        return evaluate(players, tasks[: config.validation.limit], config.validation, version=0, step=0)
    finally:
        players.shutdown()


def run_export(config: TrainConfig, out: Path, step: int | None) -> Path:
    """Writes a checkpoint of the run as a Hugging Face folder: `step`, else the best step, else the last.

    Raises FileNotFoundError naming the steps there are.
    """
    folder = RunFolder(Path(config.run.folder) / config.run.name)
    steps = folder.steps()
    if not steps:
        raise FileNotFoundError(f"{folder.checkpoints} holds no complete checkpoint")
    best = Position.from_json(read_extra(folder.checkpoint(steps[-1]))).best_step
    chosen = step if step is not None else best if best in steps else steps[-1]
    if chosen not in steps:
        raise FileNotFoundError(f"no checkpoint of step {chosen} in {folder.checkpoints}; there are {steps}")
    learner = PolicyLearner(config.model, config.learner, config.algorithm, total_steps=1, temperature=1.0, seed=0)
    learner.load(str(folder.checkpoint(chosen)))
    learner.export(str(out))
    return out
