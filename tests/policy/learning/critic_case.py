"""A critic of one checkpoint folder and what it is to learn, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.distributed.tensor import DTensor

from policy.learning.critic import CriticLearner, CriticReport
from schemas import batch
from schemas.config import Critic, Model, Optimiser

SMOOTH = Optimiser(lr=1e-2, eps=1e-2, max_grad_norm=0.1)  # a large eps: rounding of tiny gradients stays tiny


def lesson_of(table: pa.Table, seed: int = 0) -> pa.Table:
    """A CRITIC table of a TRAINING table's rows, with random values and returns."""
    random = np.random.default_rng(seed)
    masks = [np.asarray(mask, dtype=np.float32) for mask in table["mask"].to_pylist()]
    columns = {name: table[name] for name in batch.CRITIC.names if name in table.column_names}
    columns |= {
        "values": [(4 + random.normal(size=len(m))).astype(np.float32) * m for m in masks],
        "returns": [(6 + random.normal(size=len(m))).astype(np.float32) * m for m in masks],
    }
    return batch.check(pa.table(columns, schema=batch.CRITIC), batch.CRITIC, "test")


def critic_of(folder: object, *, model: dict[str, Any] | None = None, **critic: Any) -> CriticLearner:
    """A critic on the CPU."""
    settings: dict[str, Any] = {"optimiser": SMOOTH, "micro_batch_rows": 4, "max_nonfinite_steps": 1} | critic
    return CriticLearner(Model(path=str(folder), **(model or {})), Critic(**settings), total_steps=10, device="cpu")


def with_head(critic: CriticLearner, scale: float = 0.25) -> CriticLearner:
    """A head that says something, past the first step, which moves all values."""
    head = critic.network.head
    with torch.no_grad():
        for parameter, values in (
            (head.weight, scale * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0))),
            (head.bias, torch.full(head.bias.shape, 0.5)),
        ):
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            if local.numel():  # one rank has the only row
                local.copy_(values)
    critic._steps.taken = 1
    return critic


def gradient_of(critic: CriticLearner, lesson: pa.Table, images: pa.Table) -> tuple[dict[str, Any], CriticReport]:
    """The clipped gradient of an update, which is not taken, and the report."""
    found: dict[str, Any] = {}

    def record() -> None:
        for name, p in critic.network.named_parameters():
            if p.grad is not None:
                found[name] = (p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad).clone()

    step, critic.optimiser.step = critic.optimiser.step, record  # type: ignore[method-assign]
    report = critic.update(lesson, [images])
    critic.optimiser.step = step  # type: ignore[method-assign]
    return found, report
