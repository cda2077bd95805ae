"""Joins what the stages returned into the learner's batch.

    rollout shards --.
    scores ----------+--> join by trajectory_id -> advantages -> weights -> optimiser step, rank, micro-batch
    reference -------'                                ^
                                greedy rewards ------'

Pure: Arrow tables in, one TRAINING table and its numbers out. No Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from algorithms.adaptive import AdaptiveState
from algorithms.reductions import group_index
from orchestrator.advantages import Floats, advantages, kl_penalty
from orchestrator.shaping import cut, shaped_rewards, without_cut
from schemas import batch
from schemas.config import Algorithm, BatchPlan

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Assembled:
    """The learner's batch, the tables it came from, and the adaptive average to use next."""

    training: pa.Table
    scored: pa.Table  # ROLLOUT and SCORES columns, for metrics and samples
    adaptive: AdaptiveState
    weights: Floats  # adaptive weight of each trajectory, all 1 when adaptive weighting is off
    overlong: Floats  # what its length took off the reward of each trajectory
    masked: npt.NDArray[np.bool_]  # trajectories left out of the loss because they were cut


def assemble(
    rollouts: Sequence[pa.Table],
    scores: Sequence[pa.Table],
    reference: Sequence[pa.Table] | None,
    greedy: Mapping[str, float] | None,
    algorithm: Algorithm,
    plan: BatchPlan,
    adaptive: AdaptiveState,
    kl_coefficient: float,
) -> Assembled:
    """Builds the TRAINING table of one step. Raises SchemaError when the stages' rows do not match.

    `greedy` is the reward of each task's greedy reply, by task_id, where the advantage is measured against it.
    `kl_coefficient` is that of a KL penalty in the reward; one in the loss is the learner's.

    Rows of the same group stay in one optimiser step. Within it they are dealt to ranks by length, so that ranks have
    equal counts and nearly equal work, and micro-batches hold rows of similar length.
    """
    rollout = batch.concat(rollouts, batch.ROLLOUT, "assemble: rollouts")
    if algorithm.mask_truncated:
        rollout = without_cut(rollout)
    scored = batch.join(rollout, batch.concat(scores, batch.SCORES, "assemble: scores"), "assemble: scores")
    rewards = scored.column("reward").to_numpy()
    if not np.isfinite(rewards).all():
        bad = scored.column("trajectory_id")[int(np.flatnonzero(~np.isfinite(rewards))[0])].as_py()
        raise batch.SchemaError(f"assemble: the reward of trajectory {bad} is not finite; the reward must be an error")

    joined = rollout
    if reference is not None:
        joined = batch.join(
            joined, batch.concat(reference, batch.REFERENCE, "assemble: reference"), "assemble: reference"
        )
    else:
        nothing = pa.nulls(rollout.num_rows, batch.TRAINING.field("reference_logprobs").type)
        joined = joined.append_column("reference_logprobs", nothing)
    penalty = kl_penalty(joined, algorithm.kl, kl_coefficient)
    credit = advantages(scored, algorithm, adaptive, greedy, penalty)
    joined = joined.append_column("advantages", credit.advantages)

    parts = [
        _optimiser_step(joined, rows, number, plan, algorithm)
        for number, rows in enumerate(_mini_batches(rollout, plan))
    ]
    training = pa.concat_tables(parts).combine_chunks()
    return Assembled(
        training=batch.check(training, batch.TRAINING, "assemble"),
        scored=scored,
        adaptive=credit.adaptive,
        weights=credit.weights,
        overlong=rewards - shaped_rewards(scored, algorithm.overlong).numpy(),
        masked=cut(rollout) if algorithm.mask_truncated else np.zeros(rollout.num_rows, dtype=bool),
    )


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
    for seated in range(plan.ranks):
        own = np.flatnonzero(rank == seated)
        for place, part in enumerate(plan.micro_batches.fill(lengths[own].tolist())):
            micro[own[part]] = place
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
    trained = np.asarray([np.sum(mask.as_py()) for mask in table.column("mask")])
    counted = np.sum(trained > 0) if algorithm.loss.denominator == "sequence" else np.sum(trained)
    return max(1.0, float(counted))
