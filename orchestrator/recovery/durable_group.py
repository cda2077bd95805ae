"""A sharded group that outlives its ranks: the learner's and the critic's.

call fails -> every rank is killed and started again -> last complete checkpoint -> the updates since, repeated
                                                                                  -> the call that failed, repeated

A rank that is gone takes the group with it: the others are, or soon will be, stuck in a collective. A rebuilt group
computes what the lost one did, to the bit where the arithmetic itself repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from actors.group import ActorGroup, GroupError
from orchestrator.recovery.recoveries import Recoveries
from orchestrator.recovery.replay import Journal
from orchestrator.recovery.stop import STOP
from orchestrator.run_folder.folder import RunFolder
from policy.state.checkpoint import read_extra
from schemas.config import OnError

Send = Callable[[Sequence[Any]], Sequence[Any]]  # actors in order of rank -> references to their answers


class DurableGroup:
    """Calls on every rank that survive the death of any of them.

    The actors have `address() -> (host, port)` and `start(host, port, checkpoint)`; every call may be repeated after a
    rebuild.
    """

    def __init__(
        self,
        group: ActorGroup,
        folder: RunFolder,
        recoveries: Recoveries,
        on_error: OnError,
        part_of: Callable[[str], str] = lambda checkpoint: checkpoint,
    ) -> None:
        """`on_error` is what a replay that cannot be written does; `part_of(checkpoint)` is what the actors load."""
        self.group = group
        self._folder = folder
        self._recoveries = recoveries
        self._part_of = part_of
        self._journal = Journal(folder.replay / group.role, group.limits.call_s, on_error)
        self._step = 0  # updates made, as the checkpoints count them

    @property
    def actors(self) -> tuple[Any, ...]:
        """The actors of now, in order of rank."""
        return self.group.actors

    def start(self, checkpoint: str | None) -> None:
        """Builds the sharded model, from a checkpoint of the run if given: the newest complete one."""
        try:
            self._build(checkpoint)
        except GroupError as error:
            self.rebuild(error)

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Calls `method` on every rank and waits; see ActorGroup.call. Not for what changes the model."""
        return self.ask(method, *arguments).result()

    def ask(self, method: str, *arguments: Any) -> Answers:
        """Calls `method` on every rank. Not for what changes the model."""
        return Answers(self, f"{method} after step {self._step}", _to_all(method, arguments))

    def meet(self, method: str, *arguments: Any) -> None:
        """As `call`, with a host and a free port of rank 0 before the arguments; bounded as a start is."""
        try:
            self.group.meet(method, *arguments)
        except GroupError as error:
            self.rebuild(error)
            self.meet(method, *arguments)

    def hand_over(self, method: str, ranks: int) -> list[Any]:
        """References to what `method` of the first ranks returns, in order: it returns (anything small, the value).

        All are there, and the values stay where they are.
        """
        values: list[Any] = []

        def send(actors: Sequence[Any]) -> list[Any]:
            pairs = [getattr(actor, method).options(num_returns=2).remote() for actor in actors[:ranks]]
            values[:] = [value for _, value in pairs]
            return [done for done, _ in pairs]

        Answers(self, f"{method} after step {self._step}", send).result()
        return values

    def begin_update(self, method: str, *arguments: Any) -> Answers:
        """Starts a call that changes the model; tables are given as references. Wait for it before the next.

        It is noted first, so that a group that is rebuilt later can repeat it. Raises CheckpointError as
        Journal.record does.
        """
        self._journal.trim(max(self._folder.steps(), default=0))  # what a complete checkpoint holds
        self._journal.record(self._step, method, arguments)
        return Answers(self, f"{method} of step {self._step}", _to_all(method, arguments), updates=1)

    def made(self, updates: int) -> None:
        """Counts updates whose answers are there."""
        self._step += updates

    def rebuild(self, error: GroupError) -> None:
        """New actors with the state that the lost ones had, before the call that failed.

        Raises RecoveryLimitError, or the error, where that is no use. A signal waits: a group that was half rebuilt
        could not save.
        """
        with STOP.held():
            loss = self._recoveries.begin(error, self.group)
            made = self._step
            while not self._repeated(made):
                pass
            self._recoveries.end(loss)

    def _repeated(self, made: int) -> bool:
        """Whether new actors came to where the lost ones were, after so many updates."""
        self.group.restart(range(len(self.group)))
        found = self._folder.steps()
        try:
            self._build(str(self._folder.checkpoint(found[-1])) if found else None)
            for entry in self._journal.between(self._step, made):
                what = f"{entry.method} of step {entry.step}, repeated"
                self.group.call(entry.method, *entry.arguments, what=what)
        except GroupError as again:
            self._recoveries.begin(again, self.group)
            return False
        finally:
            self._step = made
        return True

    def _build(self, checkpoint: str | None) -> None:
        self._step = int(read_extra(checkpoint)["step"]) if checkpoint else 0
        self.group.meet("start", self._part_of(checkpoint) if checkpoint else None)


class Answers:
    """A call under way on a group's ranks."""

    def __init__(self, group: DurableGroup, what: str, send: Send, updates: int = 0) -> None:
        """`what` names the call in errors; `send` makes it."""
        self._group = group
        self._what = what
        self._send = send
        self._updates = updates
        self._sent()

    def result(self) -> list[Any]:
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


def _to_all(method: str, arguments: Sequence[Any]) -> Send:
    return lambda actors: [getattr(actor, method).remote(*arguments) for actor in actors]
