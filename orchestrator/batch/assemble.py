"""Joins what the stages returned into the learner's batch, and the critic's.

    rollout shards --.
    scores ----------+--> join by trajectory_id -> advantages -> weights -> optimiser step, rank, micro-batch
    reference -------|                                ^    '---> returns -> the same, for the critic
    values ----------'          greedy rewards -------'

Pure: Arrow tables in, a TRAINING and a CRITIC table and their numbers out. No Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from algorithms.adaptive import AdaptiveState
from algorithms.reductions import Denominator, count_denominator, group_index
from orchestrator.batch.credit import Floats, advantages, kl_penalty
from orchestrator.batch.lengths import cut, shaped_rewards, without_cut
from schemas import batch
from schemas.config import Algorithm, BatchPlan

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StageTables:
    """What the stages returned of one step: their tables, shard by shard.

    `reference` and `values`, the critic's, are None where there is no such stage; `greedy` is the reward of each task's
    greedy reply, by task_id, where the advantage is measured against it.
    """

    rollouts: Sequence[pa.Table]
    scores: Sequence[pa.Table]
    reference: Sequence[pa.Table] | None = None
    values: Sequence[pa.Table] | None = None
    greedy: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class StepMethod:
    """How one step is learnt from: the algorithm, the batch plans, and what moves from step to step.

    `kl_coefficient` is that of a KL penalty in the reward; one in the loss is the learner's. `critic_plan` says how the
    critic learns, None without one. A plan of no optimiser steps gives no rows.
    """

    algorithm: Algorithm
    plan: BatchPlan
    adaptive: AdaptiveState
    kl_coefficient: float
    critic_plan: BatchPlan | None = None


@dataclass(frozen=True, slots=True)
class Assembled:
    """The learner's batch, the critic's, the tables they came from, and the adaptive average to use next."""

    training: pa.Table
    critic: pa.Table  # no rows without a critic
    scored: pa.Table  # ROLLOUT and SCORES columns, for metrics and samples
    adaptive: AdaptiveState
    weights: Floats  # adaptive weight of each trajectory, all 1 when adaptive weighting is off
    overlong: Floats  # what its length took off the reward of each trajectory
    masked: npt.NDArray[np.bool_]  # trajectories left out of the loss because they were cut


def assemble(returned: StageTables, method: StepMethod) -> Assembled:
    """Builds the TRAINING table of one step; with a critic, its CRITIC table too.

    Rows of the same group stay in one optimiser step. Within it they are dealt to ranks by length, so that ranks have
    equal counts and nearly equal work, and micro-batches hold rows of similar length. Raises SchemaError when the
    stages' rows do not match.
    """
    algorithm, loss = method.algorithm, method.algorithm.loss
    rollout = batch.concat(returned.rollouts, batch.ROLLOUT, "assemble: rollouts")
    if algorithm.mask_truncated:
        rollout = without_cut(rollout)
    scored = batch.join(rollout, batch.concat(returned.scores, batch.SCORES, "assemble: scores"), "assemble: scores")
    rewards = scored.column("reward").to_numpy()
    if not np.isfinite(rewards).all():
        bad = scored.column("trajectory_id")[int(np.flatnonzero(~np.isfinite(rewards))[0])].as_py()
        raise batch.SchemaError(f"assemble: the reward of trajectory {bad} is not finite; the reward must be an error")

    joined = rollout
    if returned.reference is not None:
        joined = batch.join(
            joined, batch.concat(returned.reference, batch.REFERENCE, "assemble: reference"), "assemble: reference"
        )
    else:
        nothing = pa.nulls(rollout.num_rows, batch.TRAINING.field("reference_logprobs").type)
        joined = joined.append_column("reference_logprobs", nothing)
    penalty = kl_penalty(joined, algorithm.kl, method.kl_coefficient)
    if returned.values is not None:
        joined = batch.join(joined, batch.concat(returned.values, batch.VALUES, "assemble: values"), "assemble: values")
    values = joined.column("values") if returned.values is not None else None
    credit = advantages(scored, algorithm, method.adaptive, returned.greedy, penalty, values)
    joined = joined.append_column("advantages", credit.advantages)
    critic = batch.CRITIC.empty_table()
    if method.critic_plan is not None and credit.returns is not None:
        learned = joined.append_column("returns", credit.returns)
        critic = _dealt(learned, method.critic_plan, batch.CRITIC, lambda table: _denominator(table, "token"))
    return Assembled(
        training=_dealt(
            joined, method.plan, batch.TRAINING, lambda table: _denominator(table, loss.denominator, loss.constant)
        ),
        critic=critic,
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


def _dealt(joined: pa.Table, plan: BatchPlan, schema: pa.Schema, denominator: Callable[[pa.Table], float]) -> pa.Table:
    parts = [
        _optimiser_step(joined.take(rows.tolist()), number, plan, schema, denominator)
        for number, rows in enumerate(_mini_batches(joined, plan))
    ]
    return batch.check(pa.concat_tables([schema.empty_table(), *parts]).combine_chunks(), schema, "assemble")


def _optimiser_step(
    table: pa.Table, number: int, plan: BatchPlan, schema: pa.Schema, denominator: Callable[[pa.Table], float]
) -> pa.Table:
    lengths = np.asarray([len(ids) for ids in table.column("token_ids")])
    longest_first = np.argsort(-lengths, kind="stable")
    turn = np.arange(table.num_rows)
    lap, seat = turn // plan.ranks, turn % plan.ranks
    rank = np.empty(table.num_rows, dtype=np.int32)
    micro = np.empty(table.num_rows, dtype=np.int32)
    rank[longest_first] = np.where(lap % 2 == 0, seat, plan.ranks - 1 - seat)
    for seated in range(plan.ranks):
        own = np.flatnonzero(rank == seated)
        for place, part in enumerate(plan.micro_batches.fill(lengths[own].tolist())):
            micro[own[part]] = place
    columns: dict[str, Any] = {name: table.column(name) for name in schema.names if name in table.column_names}
    columns |= {
        "optimiser_step": np.full(table.num_rows, number, dtype=np.int32),
        "rank": rank,
        "micro_batch": micro,
        "denominator": np.full(table.num_rows, denominator(table)),
    }
    return pa.table(columns, schema=schema)


def _denominator(table: pa.Table, kind: Denominator, constant: float | None = None) -> float:
    """What a loss of one optimiser step divides by, over all ranks and micro-batches."""
    trained = torch.tensor([int(np.sum(mask.as_py())) for mask in table.column("mask")])
    return count_denominator(kind, trained, constant)
