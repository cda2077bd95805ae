"""The driver's side of checkpoints: which one to continue from, writing them behind the training, which ones to keep.

save -> the learner copies its state -> training goes on -> (written) -> the next save, or finish -> older ones go
                                                                           '-> to checkpoint.mirror, behind as well
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from orchestrator.run_folder.folder import RunFolder, critic_of, is_whole, prune
from orchestrator.run_folder.mirror import Mirror, NoMirror
from policy.state.checkpoint import CheckpointError, is_complete, verify
from schemas.config import Checkpoint, Run


class Checkpointed(Protocol):
    """What saves: see orchestrator.roles.cluster.Cluster, policy.learning.learner.PolicyLearner."""

    def begin_save(self, folder: str, extra: dict[str, Any]) -> str | None:
        """Starts to write; why the one before could not be written."""
        ...

    def finish_save(self) -> str | None:
        """Waits; why it could not be written."""
        ...


class Checkpoints:
    """Writes one run's checkpoints. Older ones are deleted only when a newer one is complete."""

    def __init__(
        self,
        learner: Checkpointed,
        folder: RunFolder,
        options: Checkpoint,
        *,
        settings: str,
        say: Callable[[str], None],
        last: int | None,
        mirror: Mirror | NoMirror,
        prunes: bool = True,
        saved: Callable[[int], None] = lambda step: None,
    ) -> None:
        """`settings` is the configuration's digest; `last` the step whose checkpoint the run continues from.

        Of several processes that save together one `prunes`, and copies to `mirror`. `saved(step)` is called when the
        checkpoint of a step is complete.
        """
        self._learner = learner
        self._folder = folder
        self._options = options
        self._settings = settings
        self._say = say
        self._last = last  # step of the newest checkpoint, complete or being written
        self._mirror = mirror
        self._prunes = prunes
        self._saved = saved
        self._told: int | None = None  # the step that `saved` was called with last
        self._state: dict[str, Any] = {}
        self._best: int | None = None
        self._writing: int | None = None
        self._copying: int | None = None
        self._copied = True  # the newest one that was written
        self._lost: int | None = None  # step of one that went with a rank while it was written

    def save(self, step: int, state: dict[str, Any], best: int | None = None) -> None:
        """Starts to write the checkpoint of `step`, unless that is done already; that of step `best` will be kept.

        Raises CheckpointError if the checkpoint before could not be written and checkpoint.on_error is "stop".
        """
        if self._last == step:
            return
        failure = self._learner.begin_save(str(self._folder.checkpoint(step)), state | {"settings": self._settings})
        self._settle(failure)
        self._writing = self._last = step
        self._state = state
        self._best = best

    def look(self) -> None:
        """Tells whether the checkpoint that is being written is complete; call it after each step."""
        if self._writing not in (None, self._told) and is_whole(self._folder.checkpoint(self._writing)):
            self._told = self._writing
            self._saved(self._writing)

    def finish(self) -> None:
        """Returns when nothing is being written or copied any more. Raises CheckpointError as `save` does."""
        if self._writing is not None:
            self._settle(self._learner.finish_save())
        self._finish_copy()

    def finish_last(self) -> None:
        """As `finish`, but a last checkpoint that could not be written is an error, whatever checkpoint.on_error is.

        One that went with a rank while it was written is written once more: the rebuilt ranks have its state.
        """
        self.finish()
        if self._lost is not None:
            self.save(self._lost, self._state, self._best)
            self.finish()
        if self._last is None or not is_whole(self._folder.checkpoint(self._last)):
            raise CheckpointError(
                f"the last checkpoint was not written to {self._folder.checkpoints}; see the lines above"
            )
        if not self._copied:
            raise CheckpointError("the last checkpoint was not copied to checkpoint.mirror; see the lines above")

    def _settle(self, failure: str | None) -> None:
        """What became of the checkpoint that was being written."""
        self.look()
        step, self._writing = self._writing, None
        self._lost = None
        if step is None:
            return
        if failure is None and not is_whole(self._folder.checkpoint(step)):
            self._last, self._lost = None, step
            self._say(f"no checkpoint of step {step}: a rank was replaced while it wrote")
        elif failure is None and self._prunes:
            best = self._best if self._options.keep_best else None
            self._finish_copy()  # what is on its way must not go
            self._mirror.begin(self._folder.checkpoint(step), step, best)
            self._copying = step
            prune(self._folder, self._options.keep, best)
        elif failure is not None and self._options.on_error == "stop":
            raise CheckpointError(f"{failure}. checkpoint.on_error=continue goes on without")
        elif failure is not None:
            self._last = None
            self._say(f"NO CHECKPOINT of step {step}: {failure}. The run goes on (checkpoint.on_error=continue)")

    def _finish_copy(self) -> None:
        step, self._copying = self._copying, None
        if step is None:
            return
        failure = self._mirror.finish()
        self._copied = failure is None
        if failure is not None and self._options.on_error == "stop":
            raise CheckpointError(f"step {step}: {failure}. checkpoint.on_error=continue goes on without")
        if failure is not None:
            self._say(f"NOT COPIED   step {step}: {failure}. The run goes on (checkpoint.on_error=continue)")


def continue_from(folder: RunFolder, run: Run, say: Callable[[str], None]) -> int | None:
    """The step to continue from: run.resume_step, else the newest checkpoint that is undamaged; None for a new run.

    A damaged one is named, renamed and passed over. Raises CheckpointError when run.resume_step is missing or damaged,
    or when there are checkpoints and all are damaged: a run never silently starts again.
    """
    steps = folder.steps()
    for path in sorted(folder.checkpoints.glob("step-*")):
        if not path.suffix and is_complete(path) and not is_whole(path):
            say(f"INCOMPLETE   {path}: the critic's part was not written to its end; passed over")
    if run.resume_step is not None:
        if run.resume_step not in steps:
            raise CheckpointError(
                f"run.resume_step={run.resume_step}: no complete checkpoint of it in {folder.checkpoints}; there are "
                f"{steps or 'none'}"
            )
        _verify_all(folder.checkpoint(run.resume_step))
        for later in (step for step in steps if step > run.resume_step):
            say(f"set aside    {_renamed(folder, later, 'aside')}: later than run.resume_step={run.resume_step}")
        return run.resume_step
    for step in reversed(steps):
        try:
            _verify_all(folder.checkpoint(step))
            return step
        except CheckpointError as error:
            say(f"DAMAGED      {error}; kept as {_renamed(folder, step, 'damaged')}, trying the one before")
    if steps:
        raise CheckpointError(
            f"all checkpoints in {folder.checkpoints} are damaged: {steps}; restore one from a copy, or set "
            "run.name=... to start again"
        )
    return None


def _verify_all(path: Path) -> None:
    """The policy's part, and the critic's where there is one."""
    verify(path)
    if critic_of(path).is_dir():
        verify(critic_of(path))


def _renamed(folder: RunFolder, step: int, suffix: str) -> str:
    """Gives a checkpoint a name that no longer counts as one; returns it."""
    path = folder.checkpoint(step)
    names = (path.with_name(f"{path.name}.{suffix}{n or ''}") for n in range(1000))
    free = next(name for name in names if not name.exists())
    path.rename(free)
    if critic_of(path).is_dir():
        critic_of(path).rename(critic_of(free))
    return free.name
