"""What happens around the loop: numbers, validation, checkpoints, pictures. The loop itself only calls it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

import pyarrow as pa
import ray

from orchestrator.batch.assemble import Assembled
from orchestrator.batch.kept_groups import KeptGroups
from orchestrator.batch.pace import Pace
from orchestrator.batch.progress import Progress
from orchestrator.evaluation.evaluate import Evaluation, evaluate, write_samples
from orchestrator.evaluation.nothing_earned import nothing_earned
from orchestrator.evaluation.overlays import plot_curves
from orchestrator.export_run import complete
from orchestrator.roles.cluster import Cluster
from orchestrator.roles.placement import nodes_of
from orchestrator.run_folder.checkpoints import Checkpoints
from orchestrator.run_folder.folder import RunFolder
from orchestrator.run_folder.mirror import mirror_of
from orchestrator.run_folder.resumable_settings import digest
from orchestrator.telemetry.metrics import MetricsLog, Numbers, Screen
from orchestrator.telemetry.stage_seconds import CLOCK
from schemas.config import TrainConfig
from schemas.task import Task


class Watch:
    """Logs every step; validates, saves and draws when due."""

    def __init__(
        self,
        config: TrainConfig,
        cluster: Cluster,
        folder: RunFolder,
        validation: Sequence[Task],
        log: MetricsLog,
        screen: Screen,
        last_saved: int | None = None,
    ) -> None:
        """`last_saved` is the step whose checkpoint the run continues from."""
        self._config = config
        self._cluster = cluster
        self._folder = folder
        self._validation = tuple(validation[: config.validation.limit])
        self._log = log
        self._screen = screen
        self.checkpoints = Checkpoints(
            cluster,
            folder,
            config.checkpoint,
            settings=digest(config),
            say=screen.say,
            last=last_saved,
            mirror=mirror_of(config.run, config.checkpoint),
            saved=cluster.saved,
        )
        self._kept = KeptGroups(folder, config)
        self._pace = Pace(config, nodes_of(ray.nodes()))
        self.first: Evaluation | None = None
        self.last: Evaluation | None = None
        self.earned = False  # whether any reply of a step had a reward
        self._without = 0

    def before(self, progress: Progress) -> None:
        """Validates the policy that training starts from, or one that the run was to validate when it was stopped."""
        step, every = progress.position.step, self._config.validation.every
        due = self._config.validation.before if step == 0 else bool(every) and step % every == 0
        if due and step < progress.total_steps:
            self.first = self._validate(progress)
        CLOCK.lap()

    def step(self, step: int, batch: Assembled, numbers: Numbers, progress: Progress) -> None:
        """After a step: logs it, then validates and saves if due. Their time is not counted as a step's."""
        self._warn(f"step {step + 1}", batch.scored)
        numbers = {**numbers, **self._pace.figures(batch, numbers), **self._cluster.recoveries.numbers()}
        self._kept.write(step, batch.scored, progress)
        self._log.write("train", step, numbers)
        self._screen.step(step, numbers)
        every = self._config.validation.every
        done = progress.position.step
        if every and done % every == 0 and done < progress.total_steps:
            self._validate(progress)
        self.checkpoints.look()
        if done % self._config.checkpoint.steps == 0:
            self.save(progress)
        CLOCK.lap()

    def after(self, progress: Progress) -> None:
        """Validates and saves the final policy, exports it, and draws the curves."""
        if self._config.validation.after:
            self.last = self._validate(progress)
        self.save(progress)
        self.checkpoints.finish_last()
        self._cluster.learner.export(str(self._folder.export))
        complete(self._folder.export, self._config, self._folder, progress.position.step)
        shutil.rmtree(self._folder.replay, ignore_errors=True)  # the last checkpoint holds every update
        plot_curves(self._folder.metrics, self._folder.root / "curves.png")

    def save(self, progress: Progress) -> None:
        """Starts to write a checkpoint of where the run stands; see Checkpoints.save."""
        position = progress.position
        self.checkpoints.save(position.step, position.to_json(), position.best_step)

    def _warn(self, when: str, scored: pa.Table) -> None:
        """Says that nothing was earned, the first time and then each time that twice as many steps had nothing."""
        said = nothing_earned(scored)
        if said is None:
            self.earned = True
            return
        self._without += 1
        if self._without & (self._without - 1) == 0:
            self._screen.say(f"warning      {when}: {said}")

    def _validate(self, progress: Progress) -> Evaluation | None:
        """None without held-out tasks, or when it was done before the run was stopped."""
        step = progress.position.step
        if not self._validation or self._log.has("validation", step):
            return None
        started = time.monotonic()
        result = evaluate(self._cluster, self._validation, self._config.validation, version=step, step=step)
        if (said := nothing_earned(result.trajectories)) is not None:
            self._screen.say(f"warning      validation at step {step}: {said}")
        write_samples(self._folder.root, step, result, self._config.trainer.samples_to_log)
        self._log.write("validation", step, result.numbers)
        self._log.pictures(step)
        self._screen.say(f"validation at step {step} ({time.monotonic() - started:.0f} s): {result.headline()}")
        if progress.note_validation(result.reward) and self._config.checkpoint.keep_best and step:
            self.save(progress)
        return result
