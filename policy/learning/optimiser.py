"""AdamW and its learning rate, a pure function of the number of optimiser steps taken."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from policy.learning.bf16_adamw import BFloat16AdamW
from schemas.config import Optimiser


def learning_rate(step: int, options: Optimiser, total_steps: int) -> float:
    """The rate of optimiser step `step` (from 0): linear warm-up, then the schedule down to min_ratio x lr.

    The last step, total_steps - 1, has the lowest rate; steps beyond keep it.

    >>> o = Optimiser(lr=1.0, schedule="linear", warmup_steps=2, min_ratio=0.5)
    >>> [learning_rate(step, o, total_steps=5) for step in range(5)]
    [0.5, 1.0, 1.0, 0.75, 0.5]
    """
    warmup = options.warmup_steps or int(options.warmup_ratio * total_steps)
    if step < warmup:
        return options.lr * (step + 1) / warmup
    length = max(1, total_steps - 1 - warmup)
    done = min(1.0, (step - warmup) / length)
    share = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[options.schedule]
    return options.lr * (options.min_ratio + (1 - options.min_ratio) * share)


def build_optimiser(parameters: Iterable[nn.Parameter], options: Optimiser) -> torch.optim.Optimizer:
    """AdamW over the parameters that need a gradient, moments in `state_dtype`. Norms and biases are not decayed."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.state_dtype == "bfloat16":
        return BFloat16AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps)
    return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
