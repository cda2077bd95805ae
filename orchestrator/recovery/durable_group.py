"""A sharded group that outlives its ranks: the learner's and the critic's.

call fails -> every rank is killed and started again -> last complete checkpoint -> the updates since, repeated
                                                            |                     -> the call that failed, repeated
                                                            '-- damaged: the one before it, with the updates since

A rank that is gone takes the group with it: the others are, or soon will be, stuck in a collective. A rebuilt group
computes what the lost one did, to the bit where the arithmetic itself repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from actors.group import ActorGroup, GroupError, Rank, ask
from orchestrator.recovery.recoveries import Recoveries
from orchestrator.recovery.replay import Journal
from orchestrator.recovery.stop import STOP
from orchestrator.run_folder.folder import RunFolder
from policy.state.checkpoint import CheckpointError, read_extra, verify
from schemas.config import Checkpoint

P = ParamSpec("P")
R = TypeVar("R")
Send = Callable[[Sequence[Any]], Sequence[Any]]  # actors in order of rank -> references to their answers


@dataclass(frozen=True, slots=True)
class _Base:
    """What a group can be rebuilt from: a checkpoint, or the model that the run started from, and the updates in it."""

    step: int
    checkpoint: str | None


class DurableGroup:
    """Calls on every rank that survive the death of any of them. The actors are `Rank`s.

    Every call may be repeated after a rebuild.
    """

    def __init__(
        self,
        group: ActorGroup,
        folder: RunFolder,
        recoveries: Recoveries,
        options: Checkpoint,
        part_of: Callable[[str], str] = lambda checkpoint: checkpoint,
    ) -> None:
        """`options` say how many checkpoints there are to fall back on, and what a replay that cannot be written does;
        `part_of(checkpoint)` is what the actors load.
        """
        self.group = group
        self._folder = folder
        self._recoveries = recoveries
        self._part_of = part_of
        self._journal = Journal(folder.replay / group.role, group.limits.call_s, options.on_error)
        self._kept = min(options.keep, 2)
        self._bases = [_Base(0, None)]  # ascending; the journal has the updates since the first
        self._step = 0  # updates made, as the checkpoints count them

    @property
    def actors(self) -> tuple[Any, ...]:
        """The actors of now, in order of rank."""
        return self.group.actors

    def start(self, checkpoint: str | None) -> None:
        """Builds the sharded model, from a checkpoint of the run if given, which was verified."""
        self._step = int(read_extra(checkpoint)["step"]) if checkpoint else 0
        self._bases = [_Base(self._step, checkpoint)]
        try:
            self._build(self._bases[0])
        except GroupError as error:
            self.rebuild(error)

    def saved(self, step: int) -> None:
        """The checkpoint of `step` is complete. Updates that no rebuild needs any more are let go.

        Needed are those since the newest checkpoint and, where checkpoint.keep keeps it, since the one before.
        """
        if step > self._bases[-1].step:
            self._bases = [*self._bases, _Base(step, str(self._folder.checkpoint(step)))][-self._kept :]
            self._journal.trim(self._bases[0].step)

    def call(self, method: Callable[Concatenate[Any, P], R], *arguments: P.args, **named: P.kwargs) -> list[R]:
        """Calls a method of every rank and waits; see ActorGroup.call. Not for what changes the model."""
        return self.ask(method, *arguments, **named).result()

    def ask(self, method: Callable[Concatenate[Any, P], R], *arguments: P.args, **named: P.kwargs) -> Answers[R]:
        """Calls a method of every rank. Not for what changes the model."""
        what = f"{method.__name__} after step {self._step}"
        return Answers(self, what, lambda actors: [ask(actor, method, *arguments, **named) for actor in actors])

    def meet(
        self, method: Callable[Concatenate[Any, str, int, P], object], *arguments: P.args, **named: P.kwargs
    ) -> None:
        """As `call`, with a host and a free port of rank 0 before the arguments; bounded as a start is."""
        try:
            self.group.meet(method, *arguments, **named)
        except GroupError as error:
            self.rebuild(error)
            self.meet(method, *arguments, **named)

    def hand_over(self, method: Callable[[Any], tuple[object, R]], ranks: int) -> list[R]:
        """References to what a method of the first ranks returns, in order: it returns (anything small, the value).

        All are there, and the values stay where they are.
        """
        values: list[Any] = []

        def send(actors: Sequence[Any]) -> list[Any]:
            pairs = [getattr(actor, method.__name__).options(num_returns=2).remote() for actor in actors[:ranks]]
            values[:] = [value for _, value in pairs]
            return [done for done, _ in pairs]

        Answers[object](self, f"{method.__name__} after step {self._step}", send).result()
        return values

    def begin_update(self, method: Callable[Concatenate[Any, P], R], *arguments: P.args, **_: P.kwargs) -> Answers[R]:
        """Starts a call that changes the model; tables are given as references. Wait for it before the next.

        It is noted first, so that a group that is rebuilt later can repeat it; arguments have no names in the notes.
        Raises CheckpointError as Journal.record does.
        """
        self._journal.record(self._step, method, arguments)
        what = f"{method.__name__} of step {self._step}"
        return Answers(self, what, lambda actors: [ask(actor, method, *arguments, **_) for actor in actors], updates=1)

    def made(self, updates: int) -> None:
        """Counts updates whose answers are there."""
        self._step += updates

    def rebuild(self, error: GroupError) -> None:
        """New actors with the state that the lost ones had, before the call that failed.

        Raises RecoveryLimitError, or the error, where that is no use, and CheckpointError where what it takes is
        damaged. A signal waits: a group that was half rebuilt could not save.
        """
        with STOP.held():
            loss = self._recoveries.begin(error, self.group)
            base = self._undamaged()
            while not self._repeated(base):
                pass
            self._recoveries.end(loss)

    def _undamaged(self) -> _Base:
        """The newest base that is what was written. Raises CheckpointError when there is none."""
        reasons: list[str] = []
        for base in reversed(self._bases):
            try:
                if base.checkpoint is not None:
                    verify(self._part_of(base.checkpoint))
            except CheckpointError as error:
                print(f"DAMAGED      {error}; trying the one before", flush=True)
                reasons.append(str(error))
            else:
                return base
        detail = "; ".join(reasons)
        if self._kept == 1:
            detail += ". checkpoint.keep=2 keeps one to fall back on"
        raise CheckpointError(f"{self.group.role}: no checkpoint is left to rebuild lost ranks from: {detail}")

    def _repeated(self, base: _Base) -> bool:
        """Whether new actors came from a base to where the lost ones were."""
        self.group.restart(range(len(self.group)))
        try:
            self._build(base)
            for entry, arguments in self._journal.between(base.step, self._step):
                refs = dict(enumerate(ask(actor, entry.method, *arguments) for actor in self.group.actors))
                self.group.gather(f"{entry.method.__name__} of step {entry.step}, repeated", refs)
        except GroupError as again:
            self._recoveries.begin(again, self.group)
            return False
        return True

    def _build(self, base: _Base) -> None:
        self.group.meet(Rank.start, self._part_of(base.checkpoint) if base.checkpoint else None)


class Answers(Generic[R]):
    """A call under way on a group's ranks."""

    def __init__(self, group: DurableGroup, what: str, send: Send, updates: int = 0) -> None:
        """`what` names the call in errors; `send` makes it."""
        self._group = group
        self._what = what
        self._send = send
        self._updates = updates
        self._sent()

    def result(self) -> list[R]:
        """Waits for all answers, in order of rank. After a rebuild, whoever needed it, the call is sent again.

        Raises GroupError where that is no use.
        """
        while True:
            try:
                found = list(self._group.group.gather(self._what, self._refs).values())
            except GroupError as error:
                if self._actors == self._group.actors:
                    self._group.rebuild(error)
                self._sent()
            else:
                self._group.made(self._updates)
                return found

    def _sent(self) -> None:
        self._actors = self._group.actors
        self._refs = dict(enumerate(self._send(self._actors)))
