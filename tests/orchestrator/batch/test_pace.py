"""The figures of the field, worked by hand; and none of what is not known."""

from typing import Any

import pytest

from orchestrator.batch.pace import Counted, Fleet, counted, figures
from orchestrator.telemetry.metrics import _summary
from policy.network.operations import Passes, Rates, Work
from schemas.config import BatchPlan, TrainConfig
from schemas.config.micro_batches import MicroBatches
from tests.orchestrator.batch.test_assemble import run

RATES = Rates(
    token=Passes(10, 20, 5),
    pair=Passes(),
    target=Passes(1000, 2000),
    patch=Passes(7, 14, 3),
    patch_pair=Passes(),
    window_pair=Passes(),
    visual_token=Passes(),
    vocabulary=100,
    window=0,
    merge=2,
)


def step(mini_batches: int, rows: int) -> Any:
    """Four trajectories of 5 tokens, 3 of them trained, all with one image of 8 x 8 patches; one rank."""
    plan = BatchPlan(2, 2, ranks=1, epochs=1, mini_batches=mini_batches, micro_batches=MicroBatches(rows))
    return run([5] * 4, [1.0, 3.0, 4.0, 5.0], plan)


def config(**sections: Any) -> TrainConfig:
    base = {
        "model": {"path": "m", "dtype": "bfloat16"},
        "data": {"train_files": "a"},
        "trainer": {"max_steps": 1},
        "resources": {
            "learner": {"count": 4, "gpus": 1},
            "rollout": {"count": 2, "gpus": 1},
            "reference": {"gpus": 0.5},
        },
    }
    return TrainConfig.model_validate(base | sections)


def test_a_step_is_counted_pass_by_pass() -> None:
    # Two passes of two rows: each row 50 operations forward for tokens and 3000 for targets; each pass the image once.
    out = step(1, 2)
    done = counted(out.scored, out.training, RATES)
    assert (done.samples, done.tokens) == (4, 20)
    assert done.work == Work(
        text=Passes(4 * (50 + 3000), 4 * (100 + 6000), 4 * 25), vision=Passes(2 * 448, 2 * 896, 2 * 192)
    )
    alone = step(1, 1)  # each row by itself, so that the image passes four times
    assert counted(alone.scored, alone.training, RATES).work.vision == Passes(4 * 448, 4 * 896, 4 * 192)


def test_what_passes_again_is_counted_again() -> None:
    out = step(2, 2)  # the rows of the second optimiser step are read before the first
    done = counted(out.scored, out.training, RATES).work
    assert (done.text.forward, done.text.backward) == (6 * 3050, 4 * 6100)
    assert (done.vision.forward, done.vision.backward) == (3 * 448, 2 * 896)
    exact = counted(out.scored, out.training, RATES, exact_kl=True).work
    assert exact.text.forward == (6 + 4) * 3050


def test_figures_by_hand() -> None:
    done = Counted(samples=8, tokens=1200, work=Work(Passes(30e12, 50e12, 40e12), Passes(5e12, 15e12, 9e12)))
    # 8 GPUs, 20 seconds: 0.4 samples and 60 tokens a second, 7.5 for each GPU. The update: 80 + 20 T operations in
    # 5 seconds on 4 GPUs of 50 T a second are 100 of 1000. What is computed again does not count.
    assert figures(done, 20.0, 5.0, Fleet(gpus=8, learner=4, peak=50e12)) == pytest.approx(
        {
            "pace/samples_per_second": 0.4,
            "pace/tokens_per_second": 60.0,
            "pace/gpu_tokens_per_second": 7.5,
            "pace/mfu": 0.1,
            "pace/mfu_text": 0.08,
            "pace/mfu_vision": 0.02,
        }
    )


def test_what_is_not_known_has_no_figure() -> None:
    done = Counted(samples=8, tokens=1200, work=Work(Passes(30e12, 50e12)))
    always = {"pace/samples_per_second", "pace/tokens_per_second"}
    assert figures(done, 20.0, 5.0, Fleet(0, 0, None)).keys() == always  # a CPU
    unknown = figures(done, 20.0, 5.0, Fleet(8, 4, None))  # GPUs of a kind that nobody knows
    assert unknown.keys() == always | {"pace/gpu_tokens_per_second"}
    idle = Counted(8, 1200, Work())  # the critic alone learned
    assert figures(idle, 20.0, None, Fleet(8, 4, 50e12)).keys() == unknown.keys()
    assert figures(idle, 20.0, 5.0, Fleet(8, 4, 50e12)).keys() == unknown.keys()


def test_the_gpus_of_a_run() -> None:
    assert Fleet.of(config(), 50e12) == Fleet(gpus=6.5, learner=4, peak=50e12)
    assert Fleet.of(config(model={"path": "m"}), 50e12).peak is None  # computes in float32
    assert Fleet.of(config(resources={"rollout": {"gpus": 1}}), 50e12) == Fleet(gpus=1, learner=0, peak=None)


def test_the_step_line_has_the_figures_that_there_are() -> None:
    numbers = {"reward/mean": 7.5, "reward/obj_iou": 0.47, "reply/trained_tokens": 3000.0, "time/step": 2.0}
    assert _summary(numbers) == "reward  7.50  mIoU 0.470    1500 tok/s"
    known = {"pace/gpu_tokens_per_second": 2012.4, "pace/mfu": 0.2304}
    assert _summary(numbers | known) == "reward  7.50  mIoU 0.470    1500 tok/s  2012 tok/s/GPU  MFU 23.0%"
