"""Optimiser steps of one network: clipped, on schedule, skipped when they are not finite, and counted."""

from __future__ import annotations

import math

from torch import nn
from torch.distributed.tensor import DTensor

from policy.learning.optimiser import build_optimiser, learning_rate, set_learning_rate
from schemas.config import Optimiser


class NonFiniteError(RuntimeError):
    """Too many optimiser steps in a row had a loss or gradient that was not finite, or exceeded a limit."""


class Steps:
    """AdamW over the trained parameters of a module, which may be sharded."""

    def __init__(
        self, module: nn.Module, options: Optimiser, *, total_steps: int, max_nonfinite_steps: int, section: str
    ) -> None:
        """`total_steps` of the whole run, for the schedule; `section` of the configuration, for messages."""
        self._module = module
        self._options = options
        self._total_steps = total_steps
        self._max_nonfinite_steps = max_nonfinite_steps
        self._section = section
        self.optimiser = build_optimiser(module.parameters(), options)
        self.taken = 0  # skipped ones too: the schedule's clock
        self._skipped_in_a_row = 0

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return self.optimiser.param_groups[0]["lr"]

    def clip(self) -> float:
        """Clips the gradient as a whole; returns its norm before. Every rank must call it."""
        norm = nn.utils.clip_grad_norm_(self._module.parameters(), self._options.max_grad_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def take(self, loss: float, norm: float, over: str | None = None) -> bool:
        """Takes the step unless loss or norm, both over all ranks, are not finite or a limit is exceeded (`over` says
        which); whether it did. Drops the gradient.

        Raises NonFiniteError when more than `max_nonfinite_steps` steps in a row were skipped.
        """
        set_learning_rate(self.optimiser, learning_rate(self.taken, self._options, self._total_steps))
        self.taken += 1
        sound = math.isfinite(loss) and math.isfinite(norm) and over is None
        if sound:
            self.optimiser.step()
        self.optimiser.zero_grad()
        self._skipped_in_a_row = 0 if sound else self._skipped_in_a_row + 1
        if self._skipped_in_a_row > self._max_nonfinite_steps:
            why = f"last {over}" if over else f"last loss {loss}, gradient norm {norm}"
            raise NonFiniteError(
                f"{self._skipped_in_a_row} optimiser steps in a row were not finite or over a limit ({why}); lower "
                f"{self._section}.optimiser.lr, or raise {self._section}.max_nonfinite_steps"
            )
        return sound

    def counters(self) -> dict[str, int]:
        """What a checkpoint keeps beside the optimiser's state."""
        return {"steps_taken": self.taken, "skipped_in_a_row": self._skipped_in_a_row}

    def restore(self, counters: dict[str, int]) -> None:
        """Goes on from saved counters."""
        self.taken, self._skipped_in_a_row = counters["steps_taken"], counters["skipped_in_a_row"]
