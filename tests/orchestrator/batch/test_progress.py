"""A run's position: what a checkpoint brings back is what was there."""

import math
from typing import Any

import pytest
import torch

from algorithms.adaptive import AdaptiveState, weights
from orchestrator.batch.progress import Position, Progress, total_steps
from policy.learning.reports import StepLimits, StepReport, summarise
from policy.learning.sums import SUMS, LossSums
from schemas.config import Adaptive, TrainConfig
from schemas.task import NEGATIVE, Task

TASKS = [Task(task_id=f"t{i}", prompt="?", ground_truth=NEGATIVE) for i in range(7)]


def config(**other: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": {"path": "m"},
        "data": {"train_files": "a"},
        "rollout": {"tasks_per_step": 3},
        "trainer": {"max_steps": 5},
    }
    return TrainConfig.model_validate(values | other)


def averaged(progress: Progress) -> AdaptiveState:
    """The moving average after a step whose one group has the rewards 0 and 2."""
    options = Adaptive(momentum=0.95, initial=4.0)
    rewards, groups = torch.tensor([0.0, 2.0], dtype=torch.float64), torch.tensor([0, 0])
    return weights(rewards, groups, progress.method.adaptive, options)[1]


ADAPTIVE_KL = {"kl": {"coefficient": 0.05, "controller": "adaptive", "target": 0.1, "horizon": 1000}}


def test_interrupted_anywhere_the_same_tasks_and_coefficients_follow() -> None:
    straight = Progress(config(algorithm=ADAPTIVE_KL), TASKS, Position())
    expected = []
    for step in straight.steps():
        expected.append((step, straight.next_tasks(), straight.kl.coef, straight.method.adaptive))
        straight.advance(averaged(straight), measured_kl=0.3)
    found, position = [], Position()
    while position.step < 5:
        resumed = Progress(config(algorithm=ADAPTIVE_KL), TASKS, Position.from_json(position.to_json()))
        found.append((position.step, resumed.next_tasks(), resumed.kl.coef, resumed.method.adaptive))
        resumed.advance(averaged(resumed), measured_kl=0.3)
        position = resumed.position
    assert found == expected
    assert position == straight.position
    # Each step's variance is 1: from 4 the average is 3.85, 3.7075, ... A lost one would start again at 4.
    assert [state.g for *_, state in found[1:3]] == pytest.approx([3.85, 3.7075])


def test_tasks_drawn_beyond_a_step_s_own_are_part_of_the_position_once_the_step_is_done() -> None:
    """Steps that need 0, 4, 1, 0 and 2 further tasks; a step repeated after a failure starts with its own again."""
    straight = Progress(config(), TASKS, Position())
    expected: list[tuple[Task, ...]] = []
    for _, extra in zip(straight.steps(), (0, 4, 1, 0, 2), strict=True):
        expected.append(straight.next_tasks() + straight.more_tasks(extra))
        straight.advance(AdaptiveState(), None)
    found: list[tuple[Task, ...]] = []
    position = Position()
    for extra in (0, 4, 1, 0, 2):
        lost = Progress(config(), TASKS, Position.from_json(position.to_json()))
        lost.next_tasks()
        lost.more_tasks(5)  # and then the process dies
        resumed = Progress(config(), TASKS, Position.from_json(position.to_json()))
        found.append(resumed.next_tasks() + resumed.more_tasks(extra))
        resumed.advance(AdaptiveState(), None)
        position = resumed.position
    assert found == expected
    assert position == straight.position
    dealt = [task.task_id for part in expected for task in part]
    assert len(dealt) == 22
    assert all(sorted(dealt[i : i + 7]) == sorted(t.task_id for t in TASKS) for i in (0, 7, 14))  # whole epochs


def test_the_adaptive_coefficient_moves_by_the_published_rule() -> None:
    # 3 tasks x 8 samples = 24 sequences; KL 0.3 against 0.1 is clipped to +20 %: 0.05 * (1 + 0.2 * 24 / 1000).
    progress = Progress(config(algorithm=ADAPTIVE_KL), TASKS, Position())
    progress.advance(AdaptiveState(), measured_kl=0.3)
    assert progress.kl.coef == pytest.approx(0.05 * 1.0048)


def test_while_the_critic_learns_alone_the_policy_takes_no_step_and_its_coefficient_rests() -> None:
    ppo = {"algorithm": {"advantage": "gae"} | ADAPTIVE_KL, "critic": {"pretrain_steps": 2}}
    progress = Progress(config(**ppo), TASKS, Position())
    steps = []
    for _ in progress.steps():
        taken = progress.plan.optimiser_steps
        steps.append((taken, progress.kl.coef))
        progress.advance(AdaptiveState(), summarise([measured(0.3)] * taken, lr=0.1).means.kl)
    moved = [0.05 * 1.0048**n for n in range(3)]
    assert [n for n, _ in steps] == [0, 0, 1, 1, 1]
    assert [c for _, c in steps] == pytest.approx([0.05, 0.05, *moved])


def measured(kl: float, norm: float = 1.0) -> StepReport:
    """An optimiser step of 100 tokens with this mean KL, of learner.max_kl=1."""
    sums = dict.fromkeys(SUMS, 0.0) | {"tokens": 100.0, "kl_tokens": 100.0, "kl": 100 * kl}
    return StepReport(LossSums(**sums), largest_mismatch=0.0, grad_norm=norm).held_to(StepLimits(kl=1.0))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([measured(5.0)], 0.05 * 1.0512),  # over the limit and not taken, but measured: 0.0526
        ([measured(5.0), measured(5.0, math.nan)], 0.05 * 1.0512),
        ([measured(0.05), measured(0.25)], 0.05 * 1.0512),  # 0.15 on average: 50 % above the target, held at 20 %
        ([measured(0.05)], 0.05 * 0.9488),
        ([measured(5.0, math.nan)], 0.05),  # nothing is known of it
        ([], 0.05),
    ],
)
def test_a_step_that_was_skipped_moves_the_coefficient_the_right_way(steps: list[StepReport], expected: float) -> None:
    """32 tasks x 8 samples against a horizon of 1000: up to 20 % x 0.256."""
    progress = Progress(config(algorithm=ADAPTIVE_KL, rollout={}), TASKS, Position())
    progress.advance(AdaptiveState(), summarise(steps, lr=0.1).means.kl)
    assert progress.kl.coef == pytest.approx(expected)


def test_without_a_reference_the_coefficient_stays_unset() -> None:
    progress = Progress(config(algorithm={"kl": {"coefficient": 0}}), TASKS, Position())
    progress.advance(AdaptiveState(), measured_kl=None)
    assert progress.position.kl_coefficient is None


def test_the_best_validation_is_kept_and_ties_keep_the_earlier() -> None:
    progress = Progress(config(), TASKS, Position())
    assert progress.note_validation(5.0)
    progress.advance(AdaptiveState(), None)
    assert not progress.note_validation(5.0)
    assert progress.note_validation(5.1)
    assert (progress.position.best_step, progress.position.best_reward) == (1, 5.1)


@pytest.mark.parametrize(("trainer", "expected"), [({"max_steps": 4}, 4), ({"epochs": 1}, 3), ({"epochs": 3}, 7)])
def test_length_of_a_run(trainer: dict[str, int], expected: int) -> None:
    # 7 tasks, 3 a step: one epoch is 2 1/3 steps, three epochs are exactly 7.
    assert total_steps(config(trainer=trainer), len(TASKS)) == expected


def test_a_position_that_is_not_one_is_refused() -> None:
    with pytest.raises(KeyError):
        Position.from_json({"step": 3})
