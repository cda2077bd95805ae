"""Assembling a step: hand-worked advantages, whole groups per optimiser step, equal work for ranks, one denominator."""

import dataclasses
import itertools
import math
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import algorithms.advantages
from algorithms.adaptive import AdaptiveState
from orchestrator.batch.assemble import Assembled, StageTables, StepMethod, assemble
from orchestrator.batch.lengths import shaped_rewards
from orchestrator.batch.numbers import batch_numbers
from schemas import batch
from schemas.config import Adaptive, Advantage, Algorithm, BatchPlan, Kl, Loss
from schemas.config.method import Gae, Overlong
from schemas.config.micro_batches import MicroBatches
from tests.small_run import rollout_table


def rollout(lengths: list[int], samples: int) -> pa.Table:
    return rollout_table(
        [
            {
                "trajectory_id": f"t{i}",
                "group_id": f"g{i // samples}",
                "sample": i % samples,
                "token_ids": list(range(n)),
                "mask": [0, 1, 0] + [1] * (n - 3),  # a hole, as an observation leaves
                "image_digests": ["d"],
                "image_grids": [[1, 8, 8]],
            }
            for i, n in enumerate(lengths)
        ]
    )


def scores(rewards: list[float]) -> pa.Table:
    rows = [{"trajectory_id": f"t{i}", "reward": r} for i, r in enumerate(rewards)]
    return pa.Table.from_pylist(rows, schema=batch.SCORES)


def run(
    lengths: list[int],
    rewards: list[float],
    plan: BatchPlan,
    algorithm: Algorithm | None = None,
    shards: int = 1,
    greedy: dict[str, float] | None = None,
    reference: pa.Table | None = None,
    values: list[pa.Table] | None = None,
    critic: BatchPlan | None = None,
) -> Assembled:
    table = rollout(lengths, plan.samples)
    bounds = [round(i * len(table) / shards) for i in range(shards + 1)]
    parts = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    returned = StageTables(parts, [scores(rewards)], None if reference is None else [reference], values, greedy)
    return assemble(returned, StepMethod(algorithm or Algorithm(), plan, AdaptiveState(), 0.5, critic))


def by_id(out: Assembled) -> dict[str, list[float]]:
    return dict(zip(*(out.training.column(name).to_pylist() for name in ("trajectory_id", "advantages")), strict=True))


PLAN = BatchPlan(tasks=2, samples=2, ranks=2, epochs=1, mini_batches=1, micro_batches=MicroBatches(1))


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


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "grpo_passk", "rloo"])
def test_an_advantage_of_the_whole_trajectory_is_exactly_its_function_times_the_weight(name: Any) -> None:
    rewards = [0.1, 0.7, 9.3, 1 / 3, 0.1, 5.0]
    plan = BatchPlan(tasks=2, samples=3, ranks=1, epochs=1, mini_batches=1, micro_batches=MicroBatches(8))
    out = run([5, 9, 4, 7, 5, 6], rewards, plan, Algorithm(advantage=name, adaptive=Adaptive()))
    scored, groups = torch.tensor(rewards, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 1])
    values = (getattr(algorithms.advantages, name)(scored, groups).numpy() * out.weights).astype(np.float32)
    for value, tokens, mask in zip(values, by_id(out).values(), out.training.column("mask").to_pylist(), strict=True):
        assert tokens == [float(value) if trained else 0.0 for trained in mask]


def test_reinforce_plus_plus_whitens_discounted_returns_over_all_sampled_tokens() -> None:
    # Rewards 8, 0, 2, 0 on the last of 3, 2, 3 and 2 sampled tokens, discount 1/2: returns 2 4 8, 0 0, 1/2 1 2, 0 0.
    # Sum 17.5 over 10 tokens: mean 1.75; squares sum to 89.25 - 10 x 1.75^2 = 58.625; variance 58.625 / 9.
    algorithm = Algorithm(advantage="reinforce_plus_plus", gamma=0.5)
    got = by_id(run([5, 4, 5, 4], [8.0, 0.0, 2.0, 0.0], PLAN, algorithm))
    scale = math.sqrt(58.625 / 9)
    first, zero, third = ([(x - 1.75) / scale for x in xs] for xs in ([2, 4, 8], [0, 0], [0.5, 1, 2]))
    assert got["t0"] == pytest.approx([0, first[0], 0, first[1], first[2]])
    assert got["t1"] == got["t3"] == pytest.approx([0, zero[0], 0, zero[1]])
    assert got["t2"] == pytest.approx([0, third[0], 0, third[1], third[2]])


def test_reinforce_plus_plus_without_a_discount_gives_a_row_one_value() -> None:
    # 4 on 3 tokens, 0 on 2, 1 on 3, 0 on 2: mean 1.5, squares 51 - 22.5 = 28.5, variance 28.5 / 9.
    got = by_id(run([5, 4, 5, 4], [4.0, 0.0, 1.0, 0.0], PLAN, Algorithm(advantage="reinforce_plus_plus")))
    assert got["t0"] == pytest.approx([x * 2.5 / math.sqrt(28.5 / 9) for x in (0, 1, 0, 1, 1)])


def test_reinforce_plus_plus_baseline_whitens_what_exceeds_the_group() -> None:
    # Centred +2 on 3 tokens, -2 on 2, 0 on 5: mean 0.2, squares 20 - 0.4 = 19.6, variance 19.6 / 9.
    got = by_id(run([5, 4, 5, 4], [5.0, 1.0, 3.0, 3.0], PLAN, Algorithm(advantage="reinforce_plus_plus_baseline")))
    scale = math.sqrt(19.6 / 9)
    assert got["t0"] == pytest.approx([x * 1.8 / scale for x in (0, 1, 0, 1, 1)])
    assert got["t1"] == pytest.approx([-x * 2.2 / scale for x in (0, 1, 0, 1)])
    assert got["t2"] == pytest.approx([-x * 0.2 / scale for x in (0, 1, 0, 1, 1)])


def test_remax_measures_each_sample_against_its_task_s_greedy_reply() -> None:
    algorithm = Algorithm(advantage="remax")
    got = by_id(run([5, 4, 5, 4], [5.0, 1.0, 3.0, 3.0], PLAN, algorithm, greedy={"g0": 2.0, "g1": 3.5, "other": 9.0}))
    assert got == {
        "t0": [0, 3, 0, 3, 3],
        "t1": [0, -1, 0, -1],
        "t2": [0, -0.5, 0, -0.5, -0.5],
        "t3": [0, -0.5, 0, -0.5],
    }


def test_a_task_without_a_greedy_reward_is_an_error() -> None:
    with pytest.raises(batch.SchemaError, match=r"no greedy reply was scored for 1 task\(s\), the first is g1"):
        run([5, 4, 5, 4], [5.0, 1.0, 3.0, 3.0], PLAN, Algorithm(advantage="remax"), greedy={"g0": 2.0})
    with pytest.raises(ValueError, match="needs greedy_scores"):
        run([5, 4, 5, 4], [5.0, 1.0, 3.0, 3.0], PLAN, Algorithm(advantage="remax"))


# The sampler's log-probabilities are 0: d = 2, 0, 0, 4 on the sampled tokens of the four rows, and 7 where none are.
REFERENCE = pa.Table.from_pylist(
    [
        {"trajectory_id": f"t{i}", "reference_logprobs": [-7.0, d, -7.0] + [d] * (n - 3)}
        for i, (d, n) in enumerate([(-2.0, 5), (0.0, 4), (0.0, 5), (-4.0, 4)])
    ],
    schema=batch.REFERENCE,
)


@pytest.mark.parametrize(
    ("estimator", "off"),  # of the first and the last row, at a coefficient of 1/2
    [("k1", (3, 4)), ("abs", (3, 4)), ("k2", (3, 8)), ("k3", (1.5 * (math.exp(-2) + 1), math.exp(-4) + 3))],
)
def test_a_penalty_in_the_reward_is_taken_off_before_groups_are_compared(
    estimator: Any, off: tuple[float, float]
) -> None:
    algorithm = Algorithm(advantage="dr_grpo", kl=Kl(place="reward", estimator=estimator), adaptive=Adaptive())
    got = run([5, 4, 5, 4], [9.0, 1.0, 3.0, 3.0], PLAN, algorithm, reference=REFERENCE)
    assert got.weights.tolist() == pytest.approx([math.sqrt(2)] * 2 + [0.3] * 2)  # of rewards without it
    assert by_id(got)["t1"] == pytest.approx([-math.sqrt(2) * (9 - off[0] - 1) / 2 * on for on in (0, 1, 0, 1)])
    assert by_id(got)["t2"] == pytest.approx([0.3 * off[1] / 2 * on for on in (0, 1, 0, 1, 1)])


def test_a_penalty_in_the_reward_stands_on_each_token() -> None:
    # Penalty 1 on each of 3 tokens and 2 on each of 2: returns 6 7 8, 1 1, 3 3 3, -1 1. Sum 32 over 10 tokens, squares
    # 180: mean 3.2, variance (180 - 102.4) / 9.
    algorithm = Algorithm(advantage="reinforce_plus_plus", kl=Kl(place="reward", estimator="k1"))
    got = by_id(run([5, 4, 5, 4], [9.0, 1.0, 3.0, 3.0], PLAN, algorithm, reference=REFERENCE))
    scale = math.sqrt(77.6 / 9)
    assert got["t0"] == pytest.approx([0, 2.8 / scale, 0, 3.8 / scale, 4.8 / scale])
    assert got["t3"] == pytest.approx([0, -4.2 / scale, 0, -2.2 / scale])


def test_a_penalty_in_the_reward_needs_the_reference() -> None:
    with pytest.raises(batch.SchemaError, match="needs the reference's log-probabilities"):
        run([5, 4, 5, 4], [9.0, 1.0, 3.0, 3.0], PLAN, Algorithm(kl=Kl(place="reward")))


def valued(lengths: list[int], values: list[list[float]]) -> pa.Table:
    """VALUES rows in another order than the rollout's, with what no one may read where no token was sampled."""
    rows = [
        {"trajectory_id": f"t{i}", "values": [99.0, row[0], 99.0, *row[1:]][:n]}
        for i, (n, row) in enumerate(zip(lengths, values, strict=True))
    ]
    return pa.Table.from_pylist(rows[::-1], schema=batch.VALUES)


# Sampled tokens: 3, 2, 3 and 2, with a hole after the first of each row.
VALUES = valued([5, 4, 5, 4], [[2.0, 4.0, 6.0], [1.0, 1.0], [0.0, 0.0, 0.0], [3.0, 2.0]])
CRITIC_PLAN = BatchPlan(tasks=2, samples=2, ranks=1, epochs=2, mini_batches=2, micro_batches=MicroBatches(1))


def returns_by_id(out: Assembled) -> dict[str, list[float]]:
    names = ("trajectory_id", "returns")
    return dict(zip(*(out.critic.column(name).to_pylist() for name in names), strict=True))


def test_gae_skips_what_was_not_sampled_and_gives_the_critic_its_returns() -> None:
    # Discount 1, lam 1/2. t0: errors 4 - 2, 6 - 4, 8 - 6 = 2 each: advantages 2 + 1/2 3, 3, 2 = 3.5, 3, 2.
    # t1: errors 0 and -1: -0.5, -1. t2: errors 0, 0, 4: 1, 2, 4. t3: errors -1 and 0: -1, 0.
    algorithm = Algorithm(advantage="gae", gae=Gae(lam=0.5, whiten=False))
    out = run([5, 4, 5, 4], [8.0, 0.0, 4.0, 2.0], PLAN, algorithm, values=[VALUES], critic=CRITIC_PLAN)
    assert by_id(out) == {
        "t0": [0, 3.5, 0, 3, 2],
        "t1": [0, -0.5, 0, -1],
        "t2": [0, 1, 0, 2, 4],
        "t3": [0, -1, 0, 0],
    }
    # The returns' own lam is 1: the reward itself, whatever was thought of it.
    assert returns_by_id(out) == {
        "t0": [0, 8, 0, 8, 8],
        "t1": [0, 0, 0, 0],
        "t2": [0, 4, 0, 4, 4],
        "t3": [0, 2, 0, 2],
    }
    same = Algorithm(advantage="gae", gae=Gae(lam=0.5, return_lam=0.5))
    out = run([5, 4, 5, 4], [8.0, 0.0, 4.0, 2.0], PLAN, same, values=[VALUES], critic=CRITIC_PLAN)
    assert returns_by_id(out)["t0"] == [0, 5.5, 0, 7, 8]


def test_gae_advantages_are_whitened_over_the_sampled_tokens_of_the_step() -> None:
    # 3.5 3 2 -0.5 -1 1 2 4 -1 0: sum 13 over 10 tokens, squares 48.5; variance (48.5 - 16.9) / 9.
    algorithm = Algorithm(advantage="gae", gae=Gae(lam=0.5))
    got = by_id(run([5, 4, 5, 4], [8.0, 0.0, 4.0, 2.0], PLAN, algorithm, values=[VALUES], critic=CRITIC_PLAN))
    assert got["t0"] == pytest.approx([x / math.sqrt(31.6 / 9) for x in (0, 2.2, 0, 1.7, 0.7)])
    assert got["t3"] == pytest.approx([x / math.sqrt(31.6 / 9) for x in (0, -2.3, 0, -1.3)])


def test_a_penalty_per_token_is_part_of_what_the_critic_learns() -> None:
    # Penalty 1 on each token of t0 and 2 on each of t3: rewards -1 -1 7 and -2 0.
    algorithm = Algorithm(advantage="gae", kl=Kl(place="reward", estimator="k1"))
    out = run(
        [5, 4, 5, 4], [8.0, 0.0, 4.0, 2.0], PLAN, algorithm, reference=REFERENCE, values=[VALUES], critic=CRITIC_PLAN
    )
    assert returns_by_id(out)["t0"] == [0, 5, 0, 6, 7]
    assert returns_by_id(out)["t3"] == [0, -2, 0, 0]


def test_the_critic_has_a_plan_and_a_denominator_of_its_own() -> None:
    algorithm = Algorithm(advantage="gae", loss=Loss(denominator="sequence"))
    out = run([5, 4, 5, 4], [8.0, 0.0, 4.0, 2.0], PLAN, algorithm, values=[VALUES], critic=CRITIC_PLAN)
    assert set(out.training.column("denominator").to_pylist()) == {4.0}
    rows = out.critic.to_pylist()
    assert [(r["optimiser_step"], r["trajectory_id"]) for r in rows] == [
        (step, name) for step, names in enumerate((("t0", "t1"), ("t2", "t3")) * 2) for name in names
    ]
    assert {r["denominator"] for r in rows} == {5.0}  # sampled tokens of a group of two
    assert {r["rank"] for r in rows} == {0}
    assert sorted(r["micro_batch"] for r in rows) == [0] * 4 + [1] * 4
    assert {r["trajectory_id"]: r["values"] for r in rows} == {
        r["trajectory_id"]: r["values"] for r in VALUES.to_pylist()
    }


def test_while_the_critic_learns_alone_the_policy_has_no_rows() -> None:
    algorithm = Algorithm(advantage="gae")
    waits = dataclasses.replace(PLAN, epochs=0)
    out = run([5, 4, 5, 4], [8.0, 0.0, 4.0, 2.0], waits, algorithm, values=[VALUES], critic=CRITIC_PLAN)
    assert out.training.num_rows == 0
    assert out.training.schema.equals(batch.TRAINING)
    assert out.critic.num_rows == 8


def test_without_a_critic_there_is_no_batch_for_one() -> None:
    assert run([5, 4, 5, 4], [8.0, 0.0, 4.0, 2.0], PLAN).critic.num_rows == 0


def test_gae_needs_values_that_are_finite_for_every_row() -> None:
    algorithm = Algorithm(advantage="gae")
    with pytest.raises(ValueError, match="needs values"):
        run([5, 4, 5, 4], [8.0, 0.0, 4.0, 2.0], PLAN, algorithm)
    with pytest.raises(batch.SchemaError, match="assemble: values: 4 trajectories against 3"):
        run([5, 4, 5, 4], [8.0, 0.0, 4.0, 2.0], PLAN, algorithm, values=[VALUES.slice(1)])
    bad = valued([5, 4, 5, 4], [[2.0, 4.0, 6.0], [1.0, 1.0], [0.0, math.nan, 0.0], [3.0, 2.0]])
    with pytest.raises(batch.SchemaError, match="values of trajectory t2 are not finite"):
        run([5, 4, 5, 4], [8.0, 0.0, 4.0, 2.0], PLAN, algorithm, values=[bad])


@pytest.mark.parametrize("name", get_args(Advantage))
def test_advantages_do_not_depend_on_the_split(name: Any) -> None:
    lengths, rewards = [5, 9, 4, 7, 5, 6, 12, 8], [0.1, 0.7, 9.3, 0.3, 0.2, 5.0, 5.0, 1.0]
    greedy = {f"g{i}": 0.5 * i for i in range(4)} if name == "remax" else None
    values = [valued(lengths, [[0.5 * i] * n for i, n in enumerate(lengths)])] if name == "gae" else None
    algorithm = Algorithm(advantage=name)
    whole = by_id(
        run(lengths, rewards, BatchPlan(4, 2, 1, 1, 1, MicroBatches(8)), algorithm, greedy=greedy, values=values)
    )
    for ranks, mini, micro, shards in [(2, 1, 1, 3), (1, 4, 2, 8), (2, 2, 3, 2)]:
        plan = BatchPlan(4, 2, ranks, 2, mini, MicroBatches(micro))
        assert by_id(run(lengths, rewards, plan, algorithm, shards=shards, greedy=greedy, values=values)) == whole


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


def test_overlong_replies_lose_reward_before_groups_are_compared() -> None:
    # Sampled tokens 3, 7, 8 and 10 against 6 + 2 of buffer: taken off 0, 1, 2 and 2 of the rewards 4, 4, 3, 5.
    algorithm = Algorithm(
        advantage="dr_grpo", overlong=Overlong(limit=8, buffer=2, penalty=2.0), adaptive=Adaptive(initial=0.25)
    )
    out = run([5, 9, 10, 12], [4.0, 4.0, 3.0, 5.0], PLAN, algorithm)
    assert out.overlong.tolist() == [0.0, 1.0, 2.0, 2.0]
    assert out.weights.tolist() == pytest.approx([1.0, 1.0, 2.0, 2.0])  # of variances 0.25 and 1
    assert by_id(out)["t0"] == pytest.approx([0, 0.5, 0, 0.5, 0.5])
    assert by_id(out)["t3"] == pytest.approx([0, 2, 0] + [2] * 9)
    assert out.scored.column("reward").to_pylist() == [4.0, 4.0, 3.0, 5.0]  # what is logged as the reward


def test_overlong_can_look_at_the_longest_turn() -> None:
    table = rollout([9, 9], 2)
    turns = pa.array([[3, 4], [1, 6]], table.schema.field("turn_lengths").type)
    table = table.set_column(table.schema.get_field_index("turn_lengths"), table.schema.field("turn_lengths"), turns)
    table = batch.join(table, scores([1.0, 1.0]), "test")
    assert shaped_rewards(table, Overlong(limit=7, buffer=2, per="turn")).tolist() == [1.0, 0.5]
    assert shaped_rewards(table, Overlong(limit=7, buffer=2)).tolist() == [0.0, 0.0]


CUT_ROWS = ["answer", "token_limit", "length_limit", "turn_limit"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Loss(), 3 + 6),
        (Loss(denominator="sequence"), 2),
        (Loss(denominator="constant", constant=64.0), 64),
    ],
)
def test_trajectories_that_were_cut_can_be_left_out_of_the_loss(loss: Loss, expected: float) -> None:
    table = rollout([5, 6, 7, 8], 2)
    at = table.schema.get_field_index("ended_by")
    table = table.set_column(at, table.schema.field(at), pa.array(CUT_ROWS))
    algorithm = Algorithm(advantage="dr_grpo", loss=loss, mask_truncated=True)
    returned = StageTables([table], [scores([1.0, 2.0, 4.0, 8.0])])
    out = assemble(returned, StepMethod(algorithm, PLAN, AdaptiveState(), 0.0))
    assert out.masked.tolist() == [False, True, True, False]
    masks = dict(zip(*(out.training.column(n).to_pylist() for n in ("trajectory_id", "mask")), strict=True))
    assert (sum(masks["t1"]), sum(masks["t2"])) == (0, 0)
    assert masks["t0"] == [0, 1, 0, 1, 1]
    assert set(out.training.column("denominator").to_pylist()) == {float(expected)}
    assert batch_numbers(out)["reply/trained_tokens"] == 9
    assert by_id(out)["t0"][1] == -0.5  # the cut ones still count in their group's mean
    assert set(by_id(out)["t1"]) == {0.0}
    kept = assemble(returned, StepMethod(Algorithm(), PLAN, AdaptiveState(), 0.0))
    assert not kept.masked.any()
    assert sum(map(sum, kept.training.column("mask").to_pylist())) == 18
    assert batch_numbers(kept)["reply/trained_tokens"] == 18


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
    limits = MicroBatches(
        data.draw(st.integers(1, 5) | st.none()), data.draw(st.integers(10, 60)), packed=data.draw(st.booleans())
    )
    plan = BatchPlan(tasks, samples, ranks, data.draw(st.integers(1, 2)), mini, limits)
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
        passes: dict[tuple[int, int], list[int]] = {}
        for r in rows:
            passes.setdefault((r["rank"], r["micro_batch"]), []).append(len(r["token_ids"]))
        for rank in range(ranks):
            numbers = sorted(number for seat, number in passes if seat == rank)
            assert numbers == list(range(len(numbers)))  # none is skipped; ranks with fewer run idle ones
        for held in passes.values():
            tokens = sum(held) if limits.packed else len(held) * max(held)
            assert len(held) == 1 or (tokens <= (limits.tokens or 0) and len(held) <= (limits.rows or len(held)))
