"""How fast a step was, in the figures of the field: samples and tokens a second, and what was made of the GPUs.

    what was played --.
    TRAINING table ---+--counted--> Counted --.
    the model's Rates-'                       +--figures--> samples/s, tokens/s a GPU, MFU (text, vision)
    seconds of the step and of its update ----|
    GPUs, and their peak ---------------------'

MFU, model FLOPs utilisation (PaLM, arXiv 2204.02311, B), is here that of the update: the operations that its forward
and backward passes need (policy/network/operations.py), over what the learner's GPUs could do in its seconds. What
checkpointing computes again is not counted, nor is padding. Of what is not known there is no figure, never a 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.batch.assemble import Assembled
from orchestrator.roles.gpus import peak_of
from orchestrator.roles.placement import Node, role_plans
from orchestrator.telemetry.metrics import Numbers
from policy.network.collate import ragged
from policy.network.operations import Rates, Work, operations, rates_of
from schemas.config import SftConfig, TrainConfig

Pass = tuple[int, int, int]  # optimiser step, rank, micro-batch


@dataclass(frozen=True, slots=True)
class Counted:
    """Of one step: samples, all their tokens (prompt, images, observations, replies), and the update's operations.

    >>> Counted(samples=2, tokens=900, work=Work()).tokens
    900
    """

    samples: int
    tokens: int
    work: Work


@dataclass(frozen=True, slots=True)
class Fleet:
    """The GPUs that a run reserves, the learner's among them, and what one does in a second; None where unknown.

    >>> Fleet(8, 4, 989.4e12).learner
    4
    """

    gpus: float
    learner: float
    peak: float | None

    @classmethod
    def of(cls, config: TrainConfig | SftConfig, peak: float | None) -> Fleet:
        """Of a configuration. In float32 a GPU's peak in bfloat16 says nothing, nor does it where ranks have no GPU."""
        learner = config.resources.learner
        known = peak if config.model.dtype == "bfloat16" and learner.gpus else None
        return cls(sum(plan.count * plan.gpus for plan in role_plans(config)), learner.count * learner.gpus, known)


def counted(played: pa.Table, training: pa.Table, rates: Rates | None, *, exact_kl: bool = False) -> Counted:
    """What was played, and the update of a TRAINING table; without rates no operations.

    Rows of later optimiser steps pass through the policy once more, for their log-probabilities before the first; with
    `exact_kl` every row passes through the reference too.
    """
    work = Work()
    for (step, _, _), rows in _passes(training).items():
        one = _work(training, rows, rates) if rates else Work()
        work += one
        if step > 0:
            work += one.read
        if exact_kl:
            work += one.read
    tokens = pc.sum(pc.list_value_length(played.column("token_ids"))).as_py() or 0
    return Counted(played.num_rows, int(tokens), work)


def figures(done: Counted, step_s: float, update_s: float | None, fleet: Fleet) -> dict[str, float]:
    """The figures by name, those that can be known.

    Args:
        done: what the step did.
        step_s: seconds of the whole step.
        update_s: seconds of the update; None in a step that had none.
        fleet: the run's GPUs.
    """
    found = {"pace/samples_per_second": done.samples / step_s, "pace/tokens_per_second": done.tokens / step_s}
    if fleet.gpus:
        found["pace/gpu_tokens_per_second"] = done.tokens / step_s / fleet.gpus
    if fleet.peak and update_s and done.work.both.needed:
        able = update_s * fleet.learner * fleet.peak
        text, vision = done.work.text.needed / able, done.work.vision.needed / able
        found |= {"pace/mfu": text + vision, "pace/mfu_text": text, "pace/mfu_vision": vision}
    return found


class Pace:
    """Every step of a run, measured against the same model and GPUs."""

    def __init__(self, config: TrainConfig | SftConfig, nodes: Sequence[Node]) -> None:
        """`nodes` are those of the cluster. The model is looked at only where its operations are of use."""
        self.fleet = Fleet.of(config, peak_of(config.resources, nodes))
        self._rates = rates_of(config.model) if self.fleet.peak else None
        train = config if isinstance(config, TrainConfig) else None
        self._exact_kl = train is not None and train.uses_reference and train.algorithm.kl.exact

    def counted(self, played: pa.Table, training: pa.Table) -> Counted:
        """See counted."""
        return counted(played, training, self._rates, exact_kl=self._exact_kl)

    def figures(self, batch: Assembled, numbers: Numbers) -> dict[str, float]:
        """Of a step of stage 2, whose numbers have its seconds by stage."""
        step = numbers["time/step"]
        assert step is not None, "every step has its seconds"
        return figures(self.counted(batch.scored, batch.training), step, numbers.get("time/update"), self.fleet)


def _passes(training: pa.Table) -> dict[Pass, list[int]]:
    """Row numbers of every forward pass."""
    columns = [training.column(name).to_pylist() for name in ("optimiser_step", "rank", "micro_batch")]
    passes: dict[Pass, list[int]] = {}
    for row, (step, rank, micro_batch) in enumerate(zip(*columns, strict=True)):
        passes.setdefault((step, rank, micro_batch), []).append(row)
    return passes


def _work(training: pa.Table, rows: list[int], rates: Rates) -> Work:
    """Operations of one forward pass and its backward pass; each image once, as the collator does it."""
    part = training.take(rows).combine_chunks()
    masks = ragged(part, "mask")
    digests: list[Any] = part.column("image_digests").to_pylist()
    grids: list[Any] = part.column("image_grids").to_pylist()
    images = {digest: grid for pair in zip(digests, grids, strict=True) for digest, grid in zip(*pair, strict=True)}
    return operations(
        rates,
        [len(mask) for mask in masks],
        sum(int(mask.sum()) for mask in masks),
        [(t, h, w) for t, h, w in images.values()],
    )
