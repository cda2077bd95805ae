"""One training run from a configuration: folder, data, cluster, loop, report."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.cluster import Cluster, connect
from orchestrator.data import read_split
from orchestrator.evaluate import Evaluation
from orchestrator.folder import RunFolder, open_run
from orchestrator.loop import train
from orchestrator.metrics import MetricsLog, screen
from orchestrator.progress import Position, Progress, total_steps
from orchestrator.watch import Watch
from schemas.config import TrainConfig


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
    tasks = read_split(config, "train")
    validation = read_split(config, "validation")
    steps = total_steps(config, len(tasks))
    folder = open_run(config.run, config)
    found = folder.steps()
    print(f"run folder   {folder.root}" + (f" (continuing from step {found[-1]} of {steps})" if found else ""))
    print(f"data         {len(tasks)} training tasks, {len(validation)} validation tasks")
    print(f"batch plan   {config.plan}; {steps} steps", flush=True)

    connect(config.resources)
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
        cluster.shutdown()
    return Outcome(folder, steps, watch.first, watch.last)
