"""Joins what the stages returned into the learner's batch.

    rollout shards --.
    scores ----------+--> join by trajectory_id -> advantages -> weights -> optimiser step, rank, micro-batch
    reference -------'

Pure: Arrow tables in, one TRAINING table and its numbers out. No Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from algorithms.adaptive import AdaptiveOptions, AdaptiveState
from algorithms.adaptive import weights as adaptive_weights
from algorithms.advantages import dr_grpo, grpo, grpo_passk, rloo
from algorithms.reductions import group_index
from schemas import batch
from schemas.config import Advantage, Algorithm, BatchPlan

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ADVANTAGES: Mapping[Advantage, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "grpo_passk": grpo_passk,
    "rloo": rloo,
}


@dataclass(frozen=True, slots=True)
class Assembled:
    """The learner's batch, the tables it came from, and the adaptive average to use next."""

    training: pa.Table
    scored: pa.Table  # ROLLOUT and SCORES columns, for metrics and samples
    adaptive: AdaptiveState
    weights: Floats  # adaptive weight of each trajectory, all 1 when adaptive weighting is off


def assemble(
    rollouts: Sequence[pa.Table],
    scores: Sequence[pa.Table],
    reference: Sequence[pa.Table] | None,
    algorithm: Algorithm,
    plan: BatchPlan,
    adaptive: AdaptiveState,
) -> Assembled:
    """Builds the TRAINING table of one step. Raises SchemaError when the stages' rows do not match.

    Rows of the same group stay in one optimiser step. Within it they are dealt to ranks by length, so that ranks have
    equal counts and nearly equal work, and micro-batches hold rows of similar length.
    """
    rollout = batch.concat(rollouts, batch.ROLLOUT, "assemble: rollouts")
    scored = batch.join(rollout, batch.concat(scores, batch.SCORES, "assemble: scores"), "assemble: scores")
    rewards = scored.column("reward").to_numpy()
    if not np.isfinite(rewards).all():
        bad = scored.column("trajectory_id")[int(np.flatnonzero(~np.isfinite(rewards))[0])].as_py()
        raise batch.SchemaError(f"assemble: the reward of trajectory {bad} is not finite; the reward must be an error")
    values, weights, adaptive = _advantages(scored, algorithm, adaptive)

    joined = rollout
    if reference is not None:
        joined = batch.join(
            joined, batch.concat(reference, batch.REFERENCE, "assemble: reference"), "assemble: reference"
        )
    else:
        nothing = pa.nulls(rollout.num_rows, batch.TRAINING.field("reference_logprobs").type)
        joined = joined.append_column("reference_logprobs", nothing)
    joined = joined.append_column("advantages", _spread(rollout.column("mask"), values))

    parts = [
        _optimiser_step(joined, rows, number, plan, algorithm)
        for number, rows in enumerate(_mini_batches(rollout, plan))
    ]
    training = pa.concat_tables(parts).combine_chunks()
    return Assembled(batch.check(training, batch.TRAINING, "assemble"), scored, adaptive, weights)


def _advantages(scored: pa.Table, algorithm: Algorithm, state: AdaptiveState) -> tuple[Floats, Floats, AdaptiveState]:
    """One advantage and one adaptive weight per row, and the adaptive average after this batch."""
    rewards = torch.from_numpy(scored.column("reward").to_numpy().copy())
    groups = group_index(scored.column("group_id").to_pylist())
    values = ADVANTAGES[algorithm.advantage](rewards, groups)
    weights = torch.ones_like(values)
    if algorithm.adaptive is not None:
        options = AdaptiveOptions(**algorithm.adaptive.model_dump())
        weights, state, _ = adaptive_weights(rewards, groups, state, options)
    return (values * weights).numpy(), weights.numpy(), state


def _spread(mask: Any, values: Floats) -> Any:
    """Each trajectory's value on its sampled tokens, 0 on the others: list<int8> in, list<float32> out."""
    chunk = mask.combine_chunks()
    flat = chunk.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    lengths = np.diff(chunk.offsets.to_numpy())
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = flat * np.repeat(values.astype(np.float32), lengths)
    lists: Any = pa.ListArray
    return lists.from_arrays(offsets, tokens)


def _mini_batches(rollout: pa.Table, plan: BatchPlan) -> list[Ints]:
    """Row numbers of every optimiser step: whole groups in their order, the same split in every epoch."""
    group = group_index(rollout.column("group_id").to_pylist()).numpy()
    rows = np.argsort(group, kind="stable")
    return [part for _ in range(plan.epochs) for part in np.array_split(rows, plan.mini_batches)]


def _optimiser_step(joined: pa.Table, rows: Ints, number: int, plan: BatchPlan, algorithm: Algorithm) -> pa.Table:
    table = joined.take(rows.tolist())
    lengths = np.asarray([len(ids) for ids in table.column("token_ids")])
    longest_first = np.argsort(-lengths, kind="stable")
    turn = np.arange(len(rows))
    lap, seat = turn // plan.ranks, turn % plan.ranks
    rank = np.empty(len(rows), dtype=np.int32)
    micro = np.empty(len(rows), dtype=np.int32)
    rank[longest_first] = np.where(lap % 2 == 0, seat, plan.ranks - 1 - seat)
    micro[longest_first] = lap // plan.micro_batch_rows
    columns: dict[str, Any] = {name: table.column(name) for name in batch.TRAINING.names if name in table.column_names}
    columns |= {
        "optimiser_step": np.full(len(rows), number, dtype=np.int32),
        "rank": rank,
        "micro_batch": micro,
        "denominator": np.full(len(rows), _denominator(table, algorithm)),
    }
    return pa.table(columns, schema=batch.TRAINING)


def _denominator(table: pa.Table, algorithm: Algorithm) -> float:
    """What the loss of one optimiser step divides by, over all ranks and micro-batches."""
    if algorithm.loss.denominator == "constant":
        assert algorithm.loss.constant is not None
        return algorithm.loss.constant
    if algorithm.loss.denominator == "sequence":
        return float(table.num_rows)
    return float(np.sum([np.sum(mask.as_py()) for mask in table.column("mask")]))
