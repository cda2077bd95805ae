"""The estimate of a step: a small case by hand, what must grow with what, a bad split of GPUs found."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.preflight.step_cost import (
    Efficiency,
    EngineLimits,
    Machine,
    Question,
    RoleSplit,
    Shape,
    better,
    estimate,
    utilisation,
)
from policy.network.footprint import Sizes, Tower
from policy.network.hardware import GPUS, GpuRates
from policy.network.operations import Passes, Rates

RATES = Rates(
    token=Passes(10, 20),
    pair=Passes(),
    target=Passes(2, 4),
    patch=Passes(1, 2),
    patch_pair=Passes(),
    window_pair=Passes(),
    visual_token=Passes(),
    vocabulary=10,
    window=0,
    merge=1,
)
SIZES = Sizes(
    weights=100,
    trained=100,
    stored=400,
    block=10,
    root=30,
    text=Tower(blocks=2, hidden=10, inner=20, kept=1, beside=1, read=1),
    vision=Tower(blocks=2, hidden=4, inner=8, kept=1, beside=1, read=1),
    vision_trained=True,
    kv=5,
    vocabulary=10,
    merge=1,
)
IMAGE = ((1, 1, 2),)  # two patches, each a visual token
SHAPE = Shape(tasks=2, samples=2, prompt_text=6, reply=4, opening=IMAGE, shown=IMAGE, pixels=100, micro=28)
PLAIN = Efficiency(
    training=1, reading=1, memory=1, link=1, host_bytes=100, engine_step=0.5, tail=1, scores=4, pixels=50
)
SMALL = Question(
    RATES,
    SIZES,
    SHAPE,
    EngineLimits(sequences=2, utilisation=0.9),
    Machine(GpuRates(operations=100, memory=1000, link=10), node=8, network=5),
    PLAIN,
)
SPLIT = RoleSplit(engines=1, learners=2, references=1)


def test_a_step_by_hand() -> None:
    # A trajectory: 6 + 4 + 2 x 2 = 14 tokens. Forward 10 x 14 + 2 x 4 for the text, 4 for the patches = 152; backward
    # twice that.
    cost = estimate(SMALL, SPLIT)
    # Prompts: (2 x (80 + 2) + 4 x (20 + 2)) / 100. Decoding: two at a time, 8 steps, each reads 12 bytes of weights and
    # 2 x 11 tokens of 40 bytes, and half a second. Images: 2 read, 4 encoded and read, 2 s each time.
    assert cost.rollout == pytest.approx(2.52 + 8 * (0.892 + 0.5) + 20)
    assert cost.reference == pytest.approx(4 * 152 / 100 + 6 * 2)
    assert cost.scoring == 1
    assert cost.wait == pytest.approx(18.08 / 2)  # the last half, after the rollouts
    # Two rows a rank in one pass: 9.12 s of operations, beside 2 x 10 s of gathering and 20 s of gradients. Then AdamW,
    # 28 bytes of 50 weights, and four images.
    assert cost.update == pytest.approx(40 + 1.4 + 8)
    assert cost.publish == pytest.approx(400 / 2 / 100 + 2 * 400 / 100)
    assert cost.step == pytest.approx(33.656 + 9.04 + 49.4 + 10)
    assert cost.idle == pytest.approx((1 - 33.656 / 102.096, 1 - 49.4 / 102.096))
    assert utilisation(SMALL, cost) == pytest.approx(4 * 456 / (49.4 * 2 * 100))


def test_parts_by_hand() -> None:
    assert estimate(SMALL, replace(SPLIT, nccl=True)).publish == pytest.approx(2 * 400 / 10)
    adapters = replace(SMALL, adapters=True, sizes=replace(SIZES, trained=10))
    assert estimate(adapters, SPLIT).publish == pytest.approx((3 * 40 + 200) / 100)
    turns = estimate(SMALL, replace(SPLIT, shared=True))
    assert turns.wait == pytest.approx(18.08 + 1)
    assert turns.idle == (0, 0)
    # Rows of the second optimiser step are read first: half of a pass, of 10 s of gathering.
    halves = replace(SMALL, shape=replace(SHAPE, mini_batches=2))
    assert estimate(halves, SPLIT).update == pytest.approx(40 + 0.5 * 10 + 2 * 1.4 + 8)
    # Ranks on two nodes gather over the network.
    wide = estimate(SMALL, RoleSplit(engines=1, learners=9)).update
    narrow = estimate(replace(SMALL, machine=replace(SMALL.machine, node=9)), RoleSplit(engines=1, learners=9)).update
    assert wide > narrow
    # Beside weights of 200 bytes there is room for the cache of one sequence of 14 x 40 bytes.
    tight = replace(SMALL, machine=replace(SMALL.machine, memory=(200 + 560) / 0.9))
    assert estimate(tight, SPLIT).rollout > estimate(SMALL, SPLIT).rollout


# About Qwen2.5-VL-7B on 8 H100.
LARGE = Question(
    replace(RATES, token=Passes(13e9, 26e9, 12e9), target=Passes(1e9, 2e9), patch=Passes(1.3e9, 2.6e9), merge=2),
    replace(SIZES, weights=8_300_000_000, trained=8_300_000_000, text=Tower(28, 3584, 18944, 1, 1, 1), kv=512),
    Shape(128, 8, 400, 512, opening=((1, 36, 36),), shown=((1, 36, 36),), pixels=504**2, micro=16384),
    EngineLimits(256, 0.85),
    Machine(GPUS["H100"], memory=79 * 2**30),
)
LARGER = st.floats(1.1, 50)


@given(
    grows=st.sampled_from(["tasks", "samples", "prompt_text", "reply", "pixels", "epochs"]),
    times=st.integers(2, 9),
    engines=st.integers(1, 8),
    learners=st.integers(1, 8),
    shared=st.booleans(),
)
def test_more_to_do_takes_longer(grows: str, times: int, engines: int, learners: int, shared: bool) -> None:
    layout = RoleSplit(engines, learners, references=1, shared=shared)
    for question in (SMALL, LARGE):
        shape = question.shape
        more = replace(question, shape=replace(shape, **{grows: times * getattr(shape, grows)}))
        assert estimate(more, layout).step > estimate(question, layout).step


@given(rate=st.sampled_from(["operations", "memory", "link"]), times=LARGER, learners=st.integers(1, 8))
def test_a_faster_gpu_takes_no_longer(rate: str, times: float, learners: int) -> None:
    layout = RoleSplit(2, learners, references=1)
    for question in (SMALL, LARGE):
        gpu = question.machine.gpu
        faster = replace(question.machine, gpu=replace(gpu, **{rate: times * getattr(gpu, rate)}))
        assert estimate(replace(question, machine=faster), layout).step <= estimate(question, layout).step


@given(name=st.sampled_from(["weights", "kv"]), times=st.integers(2, 9))
def test_a_larger_model_takes_longer(name: str, times: int) -> None:
    for question in (SMALL, LARGE):
        sizes = question.sizes
        larger = replace(question, sizes=replace(sizes, **{name: times * getattr(sizes, name)}))
        assert estimate(larger, SPLIT).step > estimate(question, SPLIT).step


def test_a_bad_split_is_found() -> None:
    """One rank learns while six engines wait."""
    bad = RoleSplit(engines=6, learners=1, references=1)
    cost, allowed = estimate(LARGE, bad), []

    def any_split(split: RoleSplit) -> bool:
        allowed.append(split)
        return True

    best = better(LARGE, bad, any_split)
    assert best.step < 0.5 * cost.step
    assert cost.idle[0] > 0.9 > 0.4 > cost.idle[1]
    assert best.layout.learners > best.layout.engines
    assert best.layout.gpus == bad.gpus == 8
    assert best.step == min(estimate(LARGE, split).step for split in allowed)
    # All ways to write 8 as a sum of three numbers above 0.
    assert len(allowed) == 21
    assert {(s.engines, s.learners, s.references) for s in allowed} >= {(6, 1, 1), (1, 6, 1), (2, 4, 2)}


def test_what_is_not_allowed_is_not_suggested() -> None:
    bad = RoleSplit(engines=6, learners=1, references=1)
    assert better(LARGE, bad, lambda split: False).layout == bad
    assert better(LARGE, bad, lambda split: split.learners == 2).layout.learners == 2
    turns = replace(bad, shared=True)
    assert better(LARGE, turns, lambda split: True).layout == turns  # no GPU to deal otherwise
