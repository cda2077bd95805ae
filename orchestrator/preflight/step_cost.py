"""What a step of stage 2 should take, role by role: an estimate from sizes and rates, before anything is started.

    Rates, Sizes (the model) --.
    Shape (a usual step) ------+
    RoleSplit (GPUs by role) -----+--estimate--> StepCost: seconds of rollout, reference, scoring, update, publish
    Machine (rates of a GPU) --|                 '--better--> the split of the same GPUs that takes least
    Efficiency (assumed) ------'

Pure. A step is what the loop does (orchestrator/loop.py): rollouts, with reference, reward and critic's values computed
shard by shard beside them; then the update, the critic's beside the policy's; then the weights' way to the engines.
Roles that share GPUs take turns. None of it has been held against a GPU yet: it ranks layouts rather than tells time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from policy.network.footprint import WIDTH, Sizes
from policy.network.hardware import GpuRates
from policy.network.operations import Rates, Work, operations
from policy.network.positions import Grid

BFLOAT16, FLOAT32 = WIDTH["bfloat16"], WIDTH["float32"]


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What no data sheet says: assumptions, each a share of a peak unless it says otherwise.

    training     of the peak of operations, in the forward and backward passes of an update
    reading      of the same, in forward passes alone: reference, critic's values, prompts in an engine, large decodes
    memory       of the bandwidth of memory, while an engine decodes
    link         of the bandwidth between GPUs, in collectives
    host_bytes   bytes a second that a process puts into the object store, or takes out and joins
    engine_step  seconds that an engine takes for one decoding step beside the GPU's work
    tail         decoding steps, against those if all episodes were of one length and none waited for a tool
    scores       replies that one replica of the reward scores in a second (benchmarks/reward.md has 7,600 to 35,600)
    pixels       pixels a second that a process decodes and cuts into patches, which nothing overlaps; encoding and an
                 engine's own reading take about as long each (on a CPU core, photographs of a megapixel: 74 ms, 63 ms)
    """

    training: float = 0.4
    reading: float = 0.5
    memory: float = 0.7
    link: float = 0.7
    host_bytes: float = 2e9
    engine_step: float = 0.004
    tail: float = 1.3
    scores: float = 7600
    pixels: float = 14e6


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU's rates and its memory (bytes, None where unknown), GPUs of a node, and bytes a second between nodes."""

    gpu: GpuRates
    memory: float | None = None
    node: int = 8
    network: float = 50e9  # 400 Gbit/s for each GPU, as nodes of 8 H100 usually have


@dataclass(frozen=True, slots=True)
class Shape:
    """A usual step: trajectories, and of each one its text, images and replies in tokens.

    `opening` and `shown` are the images of the prompt and of the observation, as grids (t, h, w) in patches, `pixels`
    the area of one; `micro` are the tokens that one forward pass of a learner rank holds.
    """

    tasks: int
    samples: int
    prompt_text: int
    reply: int
    opening: tuple[Grid, ...]
    shown: tuple[Grid, ...]
    pixels: int
    micro: int
    epochs: int = 1
    mini_batches: int = 1
    critic_epochs: int = 1

    @property
    def trajectories(self) -> int:
        """Of the step."""
        return self.tasks * self.samples

    def visual(self, grids: tuple[Grid, ...], rates: Rates) -> int:
        """Placeholders of these images."""
        return sum(t * h * w for t, h, w in grids) // rates.merge**2

    def length(self, rates: Rates) -> int:
        """All tokens of one trajectory."""
        return self.prompt_text + self.reply + self.visual((*self.opening, *self.shown), rates)


@dataclass(frozen=True, slots=True)
class RoleSplit:
    """Processes of each role, each on GPUs of its own unless they are `shared` and take turns. 0: no such role.

    `parallel` are the GPUs of one engine, `shards` the ranks that hold one copy of the learner together, `parts` the
    shards in which an engine hands over its trajectories.
    """

    engines: int
    learners: int
    references: int = 0
    critics: int = 0
    parallel: int = 1
    shards: int | None = None
    parts: int = 2
    rewards: int = 1
    shared: bool = False
    nccl: bool = False

    @property
    def gpus(self) -> int:
        """That all roles need together, when none is shared."""
        return self.engines * self.parallel + self.learners + self.references + self.critics


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Sequences that one engine holds at once, and the part of a GPU that it takes."""

    sequences: int
    utilisation: float


@dataclass(frozen=True, slots=True)
class Question:
    """All that an estimate depends on, but for the layout."""

    rates: Rates
    sizes: Sizes
    shape: Shape
    engine: EngineLimits
    machine: Machine
    assumed: Efficiency = Efficiency()
    adapters: bool = False


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of each part of a step, as if by itself, and `wait`: what comes on top of the rollouts before the update.

    >>> StepCost(RoleSplit(3, 4), rollout=30, reference=9, scoring=1, values=0, wait=5, update=40, publish=5).step
    80
    """

    layout: RoleSplit
    rollout: float
    reference: float
    scoring: float
    values: float
    wait: float
    update: float
    publish: float

    @property
    def step(self) -> float:
        """The whole."""
        return self.rollout + self.wait + self.update + self.publish

    @property
    def idle(self) -> tuple[float, float]:
        """Shares of the step in which the engines' GPUs, and the learner's, have nothing to do."""
        if self.layout.shared:
            return 0.0, 0.0
        return 1 - self.rollout / self.step, 1 - self.update / self.step


def estimate(question: Question, layout: RoleSplit) -> StepCost:
    """What a step takes on a layout."""
    shape, assumed = question.shape, question.assumed
    rollout = _rollout(question, layout)
    reference = _reading(question, layout.references) if layout.references else 0.0
    values = _reading(question, layout.critics) if layout.critics else 0.0
    scoring = shape.trajectories / (layout.rewards * assumed.scores)
    if layout.shared:
        wait = reference + values + scoring
    else:
        beside = max(reference, values, scoring)
        # Work on the first part starts when it is there; the last part's comes after the rollouts in any case.
        wait = max(beside / layout.parts, beside - rollout * (1 - 1 / layout.parts))
    update = _update(question, layout.learners, layout.shards, shape.epochs, critic=False)
    if layout.critics:
        critic = _update(question, layout.critics, None, shape.critic_epochs, critic=True)
        update = update + critic if layout.shared else max(update, critic)
    return StepCost(layout, rollout, reference, scoring, values, wait, update, _publish(question, layout))


def utilisation(question: Question, cost: StepCost) -> float:
    """MFU of the update, as orchestrator/batch/pace.py defines it."""
    needed = question.shape.trajectories * question.shape.epochs * _whole(question).both.needed
    return needed / (cost.update * cost.layout.learners * question.machine.gpu.operations)


def better(question: Question, layout: RoleSplit, allowed: Callable[[RoleSplit], bool]) -> StepCost:
    """The estimate of the split of the same GPUs into the same roles that takes least; of the given one if none does.

    `allowed` says which splits a configuration and its memory permit.
    """
    best = estimate(question, layout)
    if layout.shared:
        return best
    for other in filter(allowed, _splits(layout)):
        cost = estimate(question, other)
        if cost.step < best.step:
            best = cost
    return best


def _splits(layout: RoleSplit) -> Iterator[RoleSplit]:
    """Every way to deal the GPUs of a layout to its roles, at least one process each."""
    whole = layout.gpus
    for engines in range(1, whole // layout.parallel + 1):
        for references in range(1, whole) if layout.references else (0,):
            for critics in range(1, whole) if layout.critics else (0,):
                learners = whole - engines * layout.parallel - references - critics
                if learners > 0:
                    yield replace(layout, engines=engines, learners=learners, references=references, critics=critics)


def _whole(question: Question) -> Work:
    """Operations on one trajectory, both passes."""
    shape, rates = question.shape, question.rates
    return operations(rates, [shape.length(rates)], shape.reply, [*shape.opening, *shape.shown])


def _rollout(question: Question, layout: RoleSplit) -> float:
    """Seconds of one engine's part: prompts once a task, observations and replies once a trajectory."""
    shape, rates, assumed, gpu = question.shape, question.rates, question.assumed, question.machine.gpu
    opening, shown, whole = shape.visual(shape.opening, rates), shape.visual(shape.shown, rates), shape.length(rates)
    prompt = shape.prompt_text + opening
    once = operations(rates, [prompt], 0, shape.opening).both.forward
    each = operations(rates, [], 0, shape.shown).both.forward
    each += rates.token.forward * shown + rates.pair.forward * shown * whole
    tasks = shape.tasks / layout.engines
    trajectories = tasks * shape.samples
    prefill = (tasks * once + trajectories * each) / (layout.parallel * gpu.operations * assumed.reading)

    held = max(1.0, min(trajectories, question.engine.sequences, _cached(question, layout, whole)))
    token = rates.token.forward + rates.target.forward
    weights = BFLOAT16 * token / 2
    reads = (weights + held * (prompt + whole) / 2 * _kv_bytes(question.sizes)) / layout.parallel
    computes = held * (token + rates.pair.forward * whole) / layout.parallel
    one = max(reads / (gpu.memory * assumed.memory), computes / (gpu.operations * assumed.reading))
    steps = assumed.tail * trajectories * shape.reply / held
    # An image of the prompt is read once, one that was drawn on is encoded, then read.
    images = tasks * len(shape.opening) + 2 * trajectories * len(shape.shown)
    return prefill + steps * (one + assumed.engine_step) + _images(question, images)


def _images(question: Question, count: float) -> float:
    """Seconds that one process spends on so many images, beside a GPU that waits."""
    return count * question.shape.pixels / question.assumed.pixels


def _kv_bytes(sizes: Sizes) -> int:
    """Keys and values of one token, in bfloat16."""
    return 2 * sizes.text.blocks * sizes.kv * BFLOAT16


def _cached(question: Question, layout: RoleSplit, length: int) -> float:
    """Sequences of a length whose keys and values fit beside an engine's weights."""
    if question.machine.memory is None:
        return math.inf
    room = question.engine.utilisation * question.machine.memory * layout.parallel - BFLOAT16 * question.sizes.weights
    return room / (_kv_bytes(question.sizes) * length)


def _reading(question: Question, replicas: int) -> float:
    """Seconds of a forward pass over every trajectory, dealt to replicas of one GPU."""
    shape = question.shape
    read = shape.trajectories * _whole(question).both.forward
    images = shape.tasks * len(shape.opening) + shape.trajectories * len(shape.shown)
    return read / (replicas * question.machine.gpu.operations * question.assumed.reading) + _images(
        question, images / replicas
    )


def _update(question: Question, ranks: int, shards: int | None, epochs: int, *, critic: bool) -> float:
    """Seconds of an update. Collectives run beside the computation: of each pass the longer one counts."""
    shape, sizes, assumed, machine = question.shape, question.sizes, question.assumed, question.machine
    work, length = _whole(question), shape.length(question.rates)
    rows = shape.trajectories / ranks
    passes = math.ceil(rows * length / max(shape.micro, length))
    able = machine.gpu.operations
    learning = rows * work.both.done / (able * assumed.training) / passes
    reading = rows * work.both.forward / (able * assumed.reading) / passes
    copy = shards or ranks
    link = machine.gpu.link if copy <= machine.node else min(machine.gpu.link, machine.network)
    other = (copy - 1) / copy / (link * assumed.link)
    gathered = BFLOAT16 * sizes.weights * other
    trained = sizes.weights if critic and not question.adapters else sizes.trained
    seconds = passes * epochs * max(learning, 2 * gathered + FLOAT32 * trained * other)
    if not critic and epochs * shape.mini_batches > 1:  # rows of later optimiser steps are read first
        later = 1 - 1 / (epochs * shape.mini_batches)
        seconds += passes * epochs * later * max(reading, gathered)
    # AdamW reads and writes weights and both moments, and reads gradients, all in float32.
    adamw = 7 * FLOAT32 * trained / copy / (machine.gpu.memory * assumed.memory)
    return seconds + epochs * shape.mini_batches * adamw + _images(question, rows * len((*shape.opening, *shape.shown)))


def _publish(question: Question, layout: RoleSplit) -> float:
    """Seconds of the weights' way to the engines, in float32 as the learner keeps them. Adapters travel alone, and are
    merged there into the checkpoint's weights, which are read again.
    """
    machine, assumed, sizes = question.machine, question.assumed, question.sizes
    if question.adapters:
        return (3 * FLOAT32 * sizes.trained + BFLOAT16 * sizes.weights) / assumed.host_bytes
    sent = FLOAT32 * sizes.weights
    if layout.nccl:  # gathered, then broadcast
        link = machine.gpu.link if layout.gpus <= machine.node else min(machine.gpu.link, machine.network)
        return 2 * sent / (link * assumed.link)
    return sent / (layout.shards or layout.learners) / assumed.host_bytes + 2 * sent / assumed.host_bytes
