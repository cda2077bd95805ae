"""The order in which tasks are dealt out: a fresh permutation per epoch, and a place in it that can be saved."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the endless sequence of tasks: `position` tasks of epoch `epoch` have been dealt out.

    >>> Cursor(epoch=0, position=32).to_json()
    {'epoch': 0, 'position': 32}
    """

    epoch: int
    position: int

    def __post_init__(self) -> None:
        if self.epoch < 0 or self.position < 0:
            raise ValueError(f"cursor ({self.epoch}, {self.position}): epoch and position count from 0")

    def to_json(self) -> dict[str, int]:
        """A JSON object; `Cursor(**saved)` reads it."""
        return {"epoch": self.epoch, "position": self.position}


@dataclass(frozen=True, slots=True)
class Sampler:
    """Deals out task indices. The order of an epoch depends on `seed` and the epoch alone, so a resume is exact.

    No task is dropped: a batch that an epoch cannot fill goes on with the next one. Without `shuffle` every epoch
    keeps the order of the files.

    >>> sampler = Sampler(n_tasks=3, seed=0, shuffle=False)
    >>> sampler.take(Cursor(0, 2), 2)
    ((2, 0), Cursor(epoch=1, position=1))
    """

    n_tasks: int
    seed: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.n_tasks < 1:
            raise ValueError(f"n_tasks is {self.n_tasks}: there is nothing to deal out")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give a whole number from 0 on")

    def take(self, cursor: Cursor, count: int) -> tuple[tuple[int, ...], Cursor]:
        """The next `count` indices from `cursor` on, and the cursor after them.

        Raises ValueError if the cursor lies past its epoch: then it was saved with more tasks than there are now.
        """
        if cursor.position > self.n_tasks:
            raise ValueError(
                f"cursor at task {cursor.position} of {self.n_tasks}: the data has changed since it was saved; "
                "restore the data, or start a new run"
            )
        indices: list[int] = []
        epoch, position = cursor.epoch, cursor.position
        while len(indices) < count:
            if position == self.n_tasks:
                epoch, position = epoch + 1, 0
            taken = self.order(epoch)[position : position + count - len(indices)]
            indices.extend(taken)
            position += len(taken)
        return tuple(indices), Cursor(epoch, position)

    def order(self, epoch: int) -> tuple[int, ...]:
        """All indices in the order of an epoch."""
        return _order(self.n_tasks, self.seed if self.shuffle else None, epoch)


@lru_cache(maxsize=4)
def _order(n_tasks: int, seed: int | None, epoch: int) -> tuple[int, ...]:
    if seed is None:
        return tuple(range(n_tasks))
    return tuple(np.random.default_rng((seed, epoch)).permutation(n_tasks).tolist())
