"""The reference actor: a frozen copy of the policy that scores tokens."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch

from policy.learning.learner import PolicyLearner
from policy.state.determinism import be_deterministic
from schemas import batch
from schemas.config import Learner, Model


class ReferenceActor:
    """One replica; replicas share the shards of a step."""

    def __init__(self, model: Model, learner: Learner, temperature: float, threads: int, deterministic: bool) -> None:
        torch.set_num_threads(threads)
        if deterministic:
            be_deterministic()
        self._policy = PolicyLearner.frozen(model, learner, temperature=temperature)

    def ready(self) -> bool:
        """True once the constructor ran."""
        return True

    def logprobs(self, rollout: pa.Table, images: pa.Table) -> pa.Table:
        """REFERENCE columns of one ROLLOUT shard."""
        batch.check(rollout, batch.ROLLOUT, "reference")
        columns: dict[str, Any] = {
            "trajectory_id": rollout.column("trajectory_id"),
            "reference_logprobs": self._policy.logprobs(rollout, [images]),
        }
        return batch.check(pa.table(columns, schema=batch.REFERENCE), batch.REFERENCE, "reference result")
