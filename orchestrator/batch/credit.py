"""What a step's rewards say about each sampled token.

    rewards, groups --> estimator --> [B, M] over sampled tokens --x adaptive weight of the group--> list<float> per row
    greedy rewards, KL penalty, values --^

Estimators see the sampled tokens of a row side by side: what stands between them carries no reward and no advantage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from algorithms.adaptive import AdaptiveState
from algorithms.adaptive import weights as adaptive_weights
from algorithms.estimators import ESTIMATORS, EstimatorBatch
from algorithms.kl import KL_ESTIMATORS
from algorithms.reductions import group_index
from orchestrator.batch.lengths import shaped_rewards
from schemas.batch import SchemaError
from schemas.config import Algorithm, Kl
from schemas.config.method import Gae

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Credit:
    """Advantages and returns aligned with token_ids, the adaptive weight of each row, and its average from here on."""

    advantages: Any  # pyarrow list<float32>
    returns: Any | None  # the same, for a critic to learn
    weights: Floats
    adaptive: AdaptiveState


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """Where the sampled tokens of ragged rows stand.

    >>> tokens = SampledTokens.of(pa.chunked_array([[[0, 1, 0, 1], [1]]], pa.list_(pa.int8())))
    >>> tokens.mask.tolist()
    [[True, True], [True, False]]
    >>> tokens.spread(np.asarray([[1.0, 2.0], [3.0, 9.0]])).to_pylist()
    [[0.0, 1.0, 0.0, 2.0], [3.0]]
    """

    offsets: npt.NDArray[np.int32]  # of the rows, in all tokens
    flat: npt.NDArray[np.bool_]  # which of all tokens were sampled
    mask: npt.NDArray[np.bool_]  # [B, M]: the sampled tokens of each row, in its first columns

    @classmethod
    def of(cls, mask: Any) -> SampledTokens:
        """From a column of masks, list<int8>."""
        chunk = mask.combine_chunks()
        flat = chunk.flatten().to_numpy(zero_copy_only=False).astype(bool)
        offsets = np.concatenate([[0], np.cumsum(np.diff(chunk.offsets.to_numpy()))]).astype(np.int32)
        counts = np.diff(np.concatenate([[0], np.cumsum(flat)])[offsets])
        return cls(offsets, flat, np.arange(counts.max(initial=1)) < counts[:, None])

    def gather(self, column: Any) -> torch.Tensor:
        """The sampled tokens' values [B, M] of a column list<float32>, 0 beyond a row's last: float64."""
        values = np.zeros(self.mask.shape)
        values[self.mask] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)[self.flat]
        return torch.from_numpy(values)

    def spread(self, values: Floats) -> Any:
        """Values [B, M] where their tokens stand, 0 elsewhere: list<float32>."""
        tokens = np.zeros(len(self.flat), dtype=np.float32)
        tokens[self.flat] = values[self.mask]
        lists: Any = pa.ListArray
        return lists.from_arrays(self.offsets, tokens)


def kl_penalty(joined: pa.Table, kl: Kl, coefficient: float) -> torch.Tensor | None:
    """What the distance to the reference takes off the reward of each sampled token, [B, M]; None if it is in the loss.

    joined: ROLLOUT and REFERENCE columns. The distance is that of the sampler's own log-probabilities. Raises
    SchemaError for rows without a reference.
    """
    if kl.place == "loss":
        return None
    if joined.column("reference_logprobs").null_count:
        raise SchemaError("assemble: algorithm.kl.place='reward' needs the reference's log-probabilities of every row")
    tokens = SampledTokens.of(joined.column("mask"))
    behaviour, reference = (tokens.gather(joined.column(f"{name}_logprobs")) for name in ("behaviour", "reference"))
    return coefficient * KL_ESTIMATORS[kl.estimator](behaviour, reference)


def advantages(
    scored: pa.Table,
    algorithm: Algorithm,
    state: AdaptiveState,
    greedy: Mapping[str, float] | None,
    penalty: torch.Tensor | None,
    values: Any | None = None,
) -> Credit:
    """Advantages of all rows of a step at once: estimators that whiten do so over all of its sampled tokens.

    Args:
        scored: ROLLOUT and SCORES columns.
        algorithm: names the estimator and the adaptive weighting.
        state: the adaptive average so far.
        greedy: reward of each task's greedy reply, by task_id, for the estimator that reads it.
        penalty: [B, M], taken off each sampled token's reward; adaptive weights look at rewards without it, and with
            their punishment of length.
        values: the critic's of each sampled token, a column list<float32>, for the estimator that reads them.

    Raises SchemaError when a task has no greedy reward or a value is not finite, ValueError for rewards that are not.
    """
    rewards = shaped_rewards(scored, algorithm.overlong)
    groups = group_index(scored.column("group_id").to_pylist())
    tokens = SampledTokens.of(scored.column("mask"))
    batch = EstimatorBatch(
        scores=rewards,
        groups=groups,
        mask=torch.from_numpy(tokens.mask),
        penalty=penalty,
        greedy_scores=None if greedy is None else _greedy_scores(scored, greedy),
        values=None if values is None else _finite_values(tokens.gather(values), scored),
        gamma=1.0 if algorithm.gamma is None else algorithm.gamma,
        gae=algorithm.gae or Gae(),
    )
    found = ESTIMATORS[algorithm.advantage](batch)
    weights = torch.ones_like(rewards)
    if algorithm.adaptive is not None:
        weights, state, _ = adaptive_weights(rewards, groups, state, algorithm.adaptive)
    return Credit(
        advantages=tokens.spread((found.advantages * weights.unsqueeze(-1)).numpy()),
        returns=None if found.returns is None else tokens.spread(found.returns.numpy()),
        weights=weights.numpy(),
        adaptive=state,
    )


def _greedy_scores(scored: pa.Table, greedy: Mapping[str, float]) -> torch.Tensor:
    names = [str(name) for name in scored.column("task_id").to_pylist()]
    missing = sorted(set(names) - greedy.keys())
    if missing:
        raise SchemaError(f"assemble: no greedy reply was scored for {len(missing)} task(s), the first is {missing[0]}")
    return torch.tensor([greedy[name] for name in names], dtype=torch.float64)


def _finite_values(values: torch.Tensor, scored: pa.Table) -> torch.Tensor:
    wrong = (~values.isfinite()).any(-1).nonzero()
    if len(wrong):
        which = scored.column("trajectory_id")[int(wrong[0])].as_py()
        raise SchemaError(
            f"assemble: the critic's values of trajectory {which} are not finite; lower critic.optimiser.lr"
        )
    return values
