"""Soft punishment of replies that come near the limit of tokens (DAPO, arXiv 2503.14476, equation 13)."""

from __future__ import annotations

import torch
from torch import Tensor


def overlong_penalty(lengths: Tensor, limit: int, buffer: int, penalty: float) -> Tensor:
    """What is taken off the reward of each reply, float64 [B], never negative.

    0 up to limit - buffer tokens, rising linearly to `penalty` at `limit`, and `penalty` beyond.

    >>> overlong_penalty(torch.tensor([60, 75, 80, 99]), limit=80, buffer=20, penalty=1.0).tolist()
    [0.0, 0.75, 1.0, 1.0]
    """
    if not 0 < buffer <= limit:
        raise ValueError(f"overlong punishment needs 0 < buffer <= limit, got buffer {buffer} and limit {limit}")
    return penalty * ((lengths.to(torch.float64) - (limit - buffer)) / buffer).clamp(0.0, 1.0)
