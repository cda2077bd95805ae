"""Assembling a step: hand-worked advantages, whole groups per optimiser step, equal work for ranks, one denominator."""

import itertools
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.adaptive import AdaptiveState
from orchestrator.assemble import Assembled, assemble
from schemas import batch
from schemas.config import Adaptive, Algorithm, BatchPlan, Loss


def rollout(lengths: list[int], samples: int) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "trajectory_id": f"t{i}",
            "group_id": f"g{i // samples}",
            "task_id": f"g{i // samples}",
            "sample": i % samples,
            "kind": "sample",
            "token_ids": list(range(n)),
            "mask": [0, 1, 0] + [1] * (n - 3),  # a hole, as an observation leaves
            "behaviour_logprobs": [0.0] * n,
            "image_digests": ["d"],
            "image_grids": [[1, 8, 8]],
            "turn_texts": ["x"],
            "turn_lengths": [n - 2],
            "turn_versions": [0],
            "ended_by": "answer",
            "reply": "x",
            "ground_truth": "none",
            "frame": "pixels",
            "original_size": [448, 448],
            "seen_size": [112, 112],
        }
        for i, n in enumerate(lengths)
    ]
    return pa.Table.from_pylist(rows, schema=batch.ROLLOUT)


def scores(rewards: list[float]) -> pa.Table:
    rows = [{"trajectory_id": f"t{i}", "reward": r} for i, r in enumerate(rewards)]
    return pa.Table.from_pylist(rows, schema=batch.SCORES)


def run(
    lengths: list[int], rewards: list[float], plan: BatchPlan, algorithm: Algorithm | None = None, shards: int = 1
) -> Assembled:
    table = rollout(lengths, plan.samples)
    bounds = [round(i * len(table) / shards) for i in range(shards + 1)]
    parts = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    return assemble(parts, [scores(rewards)], None, algorithm or Algorithm(), plan, AdaptiveState())


PLAN = BatchPlan(tasks=2, samples=2, ranks=2, epochs=1, mini_batches=1, micro_batch_rows=1)


def test_advantages_stand_on_sampled_tokens_only() -> None:
    # Rewards 1 and 3: mean 2, sample std sqrt(2); advantages -+ 1 / (sqrt(2) + 1e-6).
    out = run([5, 5, 5, 5], [1.0, 3.0, 4.0, 4.0], PLAN)
    value = 1 / (math.sqrt(2) + 1e-6)
    first, second, *others = out.training.column("advantages").to_pylist()
    assert first == pytest.approx([0, -value, 0, -value, -value])
    assert second == pytest.approx([0, value, 0, value, value])
    assert others == [[0] * 5, [0] * 5]  # no spread, nothing to learn


def test_the_adaptive_weight_multiplies_and_its_average_moves() -> None:
    # Group variances 1 and 0: mean 0.5 = G of the first batch; weights sqrt(1/0.5) and the floor 0.3.
    out = run([5, 5, 5, 5], [1.0, 3.0, 4.0, 4.0], PLAN, Algorithm(adaptive=Adaptive()))
    assert out.weights.tolist() == pytest.approx([math.sqrt(2), math.sqrt(2), 0.3, 0.3])
    assert out.adaptive.g == pytest.approx(0.5)
    plain = run([5, 5, 5, 5], [1.0, 3.0, 4.0, 4.0], PLAN)
    ratio = out.training.column("advantages")[0].as_py()[1] / plain.training.column("advantages")[0].as_py()[1]
    assert ratio == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Loss(), 3 + 4 + 5 + 6),
        (Loss(denominator="sequence"), 4),
        (Loss(denominator="constant", constant=64.0), 64),
    ],
)
def test_the_denominator_counts_the_whole_optimiser_step(loss: Loss, expected: float) -> None:
    out = run([5, 6, 7, 8], [1.0, 2.0, 3.0, 4.0], PLAN, Algorithm(loss=loss))
    assert set(out.training.column("denominator").to_pylist()) == {float(expected)}


def test_a_reward_that_is_not_finite_is_an_error_naming_the_trajectory() -> None:
    with pytest.raises(batch.SchemaError, match="the reward of trajectory t2 is not finite"):
        run([5, 5, 5, 5], [1.0, 3.0, math.nan, 4.0], PLAN)


def test_missing_scores_are_an_error() -> None:
    with pytest.raises(batch.SchemaError, match="unmatched"):
        run([5, 5, 5, 5], [1.0, 3.0, 4.0], PLAN)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_row_is_dealt_once_per_epoch_and_work_is_even(data: st.DataObject) -> None:
    samples = data.draw(st.sampled_from([2, 4]))
    ranks, mini = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([1, 2]))
    tasks = data.draw(st.integers(1, 4)) * mini
    plan = BatchPlan(tasks, samples, ranks, data.draw(st.integers(1, 2)), mini, data.draw(st.integers(1, 5)))
    count = plan.trajectories
    lengths = data.draw(st.lists(st.integers(4, 30), min_size=count, max_size=count))
    out = run(lengths, [float(i % 3) for i in range(count)], plan, shards=data.draw(st.integers(1, 3)))
    training = out.training
    seen: dict[int, list[str]] = {}
    for row in training.to_pylist():
        seen.setdefault(row["optimiser_step"], []).append(row["trajectory_id"])
    assert len(seen) == plan.optimiser_steps
    names = sorted(name for step in seen.values() for name in step)
    assert names == sorted([f"t{i}" for i in range(count)] * plan.epochs)
    for step in seen:
        rows = [r for r in training.to_pylist() if r["optimiser_step"] == step]
        groups = {r["group_id"] for r in rows}
        assert len(rows) == len(groups) * samples  # whole groups
        per_rank = np.bincount([r["rank"] for r in rows], minlength=ranks)
        assert per_rank.max() - per_rank.min() <= 1
        micro = [sorted({r["micro_batch"] for r in rows if r["rank"] == rank}) for rank in range(ranks)]
        assert all(m == micro[0] for m in micro)  # ranks issue the same collectives
        counts = np.bincount([r["rank"] * 1000 + r["micro_batch"] for r in rows])
        assert counts.max() <= plan.micro_batch_rows
