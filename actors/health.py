"""Signs of life: every actor of a group answers them in a thread of its own.

    driver --whoami, stacks--> health thread      answers while the actor is busy or stuck in a collective
           --update, ...-----> the actor's thread

A process that is dead or stopped, or that holds the interpreter's lock, answers neither.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

GROUP = "health"


@dataclass(frozen=True, slots=True)
class Process:
    """Where an actor lives.

    >>> Process(pid=4242, host="node-3", node_id="5f...").host
    'node-3'
    """

    pid: int
    host: str
    node_id: str


class Watched:
    """Mixed into every actor of a group when it is spawned."""

    @ray.method(concurrency_group=GROUP)
    def whoami(self) -> Process:
        """The actor's process; also the ping."""
        return Process(os.getpid(), socket.gethostname(), ray.get_runtime_context().get_node_id())

    @ray.method(concurrency_group=GROUP)
    def stacks(self) -> str:
        """What every Python thread of the process is doing."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return "\n".join(
            f"thread {names.get(number, number)}\n{''.join(traceback.format_stack(frame))}"
            for number, frame in sys._current_frames().items()  # pyright: ignore[reportPrivateUsage] (documented)
        )


def watched(actor_class: type) -> type:
    """The class with signs of life, under its own name."""
    return type(actor_class.__name__, (actor_class, Watched), {"__doc__": actor_class.__doc__})


class Pulse:
    """Asks actors for signs of life, without waiting, and says which have been silent for too long.

    An actor is judged from its first answer on: until its constructor has run, the deadline of the start holds. So ask
    it as soon as it is made, or one that stops before it was ever looked at is waited for until the call's limit. The
    time between two looks counts up to a quarter of `silence_s`: what this process slept through was nobody's silence.
    """

    def __init__(self, silence_s: float, ping: Callable[[Any], Any]) -> None:
        """`ping(actor)` is a reference that is there when the actor answers; its value is kept in `answers`."""
        self._silence_s = silence_s
        self._every_s = silence_s / 10
        self._ping = ping
        self._asked: dict[Any, tuple[Any, float]] = {}  # actor -> the ping under way, and seconds looked on in vain
        self._looked: dict[Any, float] = {}
        self._answered: dict[Any, float] = {}
        self.answers: dict[Any, Any] = {}

    def silent(self, actors: Collection[Any]) -> list[Any]:
        """Those that answered once and have not for `silence_s`. Call it while waiting, every second or so."""
        now = monotonic()
        pings = [self._asked[actor][0] for actor in actors if actor in self._asked]
        done = set(ray.wait(pings, num_returns=len(pings), timeout=0)[0]) if pings else set[Any]()
        found: list[Any] = []
        for actor in actors:
            passed = min(now - self._looked.get(actor, now), self._silence_s / 4)
            self._looked[actor] = now
            ping, waited = self._asked.get(actor, (None, 0.0))
            if ping in done:
                del self._asked[actor]
                self._note(actor, ping, now)
            elif ping is not None:
                self._asked[actor] = (ping, waited + passed)
                if actor in self.answers and waited + passed > self._silence_s:
                    found.append(actor)
            if actor not in self._asked and now - self._answered.get(actor, 0.0) > self._every_s:
                self.ask(actor)
        return found

    def ask(self, actor: Any) -> None:
        """Asks for a sign of life."""
        self._asked[actor] = (self._ping(actor), 0.0)

    def forget(self, actor: Any) -> None:
        """Drops an actor that is no more."""
        for known in (self._asked, self._looked, self._answered, self.answers):
            known.pop(actor, None)

    def _note(self, actor: Any, ping: Any, now: float) -> None:
        self._answered[actor] = now
        try:
            self.answers[actor] = ray.get(ping)
        except RayError:
            return  # dead: whatever is waited for of this actor says so


def end(actor: Any, process: Process | None) -> None:
    """Kills an actor and its process: one that is stopped does not hear Ray."""
    ray.kill(actor, no_restart=True)
    if process is None:
        return
    if process.node_id == ray.get_runtime_context().get_node_id():
        end_process(process.pid)
    else:
        here = NodeAffinitySchedulingStrategy(process.node_id, soft=False)
        ray.remote(end_process).options(num_cpus=0, max_retries=0, scheduling_strategy=here).remote(process.pid)


def end_process(pid: int) -> None:
    """SIGKILL, if the process is still one of Ray's."""
    try:
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return


def stacks_of(actor: Any, process: Process | None, timeout_s: float) -> str:
    """What an actor is doing, for people: its stacks, or why there are none."""
    try:
        return ray.get(actor.stacks.remote(), timeout=timeout_s)
    except RayError as error:
        reason = f"no stacks within {timeout_s:.0f} s: {type(error).__name__}"
    if process is None:
        return f"{reason}; the actor never answered"
    where = f"process {process.pid} on {process.host}"
    if process.node_id != ray.get_runtime_context().get_node_id():
        return f"{reason}; {where}"
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        state = next(line.split(":", 1)[1].strip() for line in status.splitlines() if line.startswith("State:"))
        waiting = Path(f"/proc/{process.pid}/wchan").read_text(encoding="ascii")
    except OSError:
        return f"{reason}; {where} is gone"
    return f"{reason}; {where} is {state}, in the kernel at {waiting or 'nothing'}"
