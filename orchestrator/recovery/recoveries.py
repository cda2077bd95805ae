"""What was lost and brought back: counted, timed, written down, and limited.

recoveries.jsonl     one record per recovery: role, ranks, call, fault, seconds until it was back
stacks/              what the processes were doing when a wait was given up
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from actors.group import ActorGroup, GroupError
from policy.learning.learner import NonFiniteError

HOUR_S = 3600.0


class RecoveryLimitError(GroupError):
    """More was lost within an hour than resources.max_restarts allows; this failure is not mended any more."""

    def __init__(self, last: GroupError, count: int, limit: int) -> None:
        reason = f"this is failure {count} within an hour, resources.max_restarts allows {limit}"
        reason += "; the same command continues from the last checkpoint"
        super().__init__(last.role, last.ranks, last.what, last.fault, f"{last.detail}; {reason}")


@dataclass(frozen=True, slots=True)
class LostPart:
    """A part that is being brought back.

    >>> LostPart("learner", (1,), "update of step 3", "died", since=12.5).role
    'learner'
    """

    role: str
    ranks: tuple[int, ...]
    what: str
    fault: str
    since: float  # monotonic seconds at detection


class Recoveries:
    """One for all roles of a run."""

    def __init__(self, folder: Path, per_hour: int) -> None:
        self._folder = folder
        self._per_hour = per_hour
        self._times: list[float] = []
        self._last: tuple[str, str, str] | None = None
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._mended: dict[str, float] = {}

    def begin(self, error: GroupError, group: ActorGroup | None = None) -> LostPart:
        """Takes note of a failure that its role will mend; keeps the stacks of a group that hangs.

        Raises the error itself where mending is no use: the loss is not finite, or the same call raised the same
        thing again. Raises RecoveryLimitError at too many failures within an hour.
        """
        now = time.monotonic()
        if group is not None and error.fault in ("silent", "late"):
            self._keep_stacks(error, group)
        seen = (error.role, error.what, error.detail) if error.fault == "raised" else None
        if isinstance(error.cause, NonFiniteError) or (seen is not None and seen == self._last):
            raise error
        self._last = seen
        self._times = [t for t in self._times if now - t < HOUR_S] + [now]
        if len(self._times) > self._per_hour:
            raise RecoveryLimitError(error, len(self._times), self._per_hour) from error
        print(f"lost         {str(error).splitlines()[0]}", flush=True)
        return LostPart(error.role, error.ranks, error.what, error.fault, now)

    def end(self, loss: LostPart) -> None:
        """The part is back."""
        seconds = time.monotonic() - loss.since
        self._counts[loss.role] += 1
        self._seconds += seconds
        self._folder.mkdir(parents=True, exist_ok=True)
        record = {
            "time": round(time.time(), 3),
            "role": loss.role,
            "ranks": loss.ranks,
            "what": loss.what,
            "fault": loss.fault,
            "seconds": round(seconds, 3),
        }
        with (self._folder / "recoveries.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        ranks = f" rank(s) {', '.join(map(str, loss.ranks))}" if loss.ranks else ""
        print(f"back         {loss.role}{ranks} after {seconds:.1f} s", flush=True)

    def mended(self, role: str, since: float) -> None:
        """A role that mends itself is back, lost at `since` (monotonic seconds). One loss may be seen by many calls."""
        if since > self._mended.get(role, 0.0):
            self._mended[role] = time.monotonic()
            self.end(LostPart(role, (), "call", "died", since))

    def numbers(self) -> dict[str, float]:
        """Metrics: recoveries of the run so far, together and by role, and the seconds they took together."""
        numbers = {"recovery/count": float(self._counts.total()), "recovery/seconds": self._seconds}
        return numbers | {f"recovery/{role}": float(count) for role, count in self._counts.items()}

    def _keep_stacks(self, error: GroupError, group: ActorGroup) -> None:
        folder = self._folder / "stacks"
        folder.mkdir(parents=True, exist_ok=True)
        # In a call of all ranks, the others show what they wait for.
        file = folder / f"{time.strftime('%H%M%S')}-{error.role}-{'-'.join(map(str, error.ranks))}.txt"
        silent = error.ranks if error.fault == "silent" else ()
        file.write_text(f"{error}\n\n{group.stacks(silent)}", encoding="utf-8")
