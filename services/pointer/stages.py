"""From turns that ended to the stages that a caller is told, and to the whole answer."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping

from actors.player import Told
from pointing import geometry
from pointing.agreement import agreement
from pointing.grammar import parse
from pointing.parts import predict, said_name
from schemas.pointer import (
    HandStage,
    LookStage,
    PointAnswer,
    PointSample,
    RayStage,
    RedrawnStage,
    Stage,
    TargetStage,
)
from schemas.task import Box, RaySegment


def stages(told: Told) -> Iterator[Stage]:
    """What one more turn of a sample has brought."""
    turn, index = len(told.texts) - 1, told.sample
    said = sample_of(told)
    yield LookStage(index=index, turn=turn, text=told.texts[-1])
    if turn == 0:
        yield HandStage(index=index, box=said.hand)
        yield RayStage(index=index, ray=said.ray)
    if told.shown is not None:
        yield RedrawnStage(index=index, image=base64.b64encode(told.shown).decode())
    if told.ended_by is not None:
        yield TargetStage(index=index, box=said.target, name=said.name)


def sample_of(told: Told) -> PointSample:
    """What a sample has said so far. Any reply is legal: what it lacks, or no number can hold, is None."""
    reply = parse("".join(told.texts))
    said = predict(reply, told.frame)
    target = _box(said.target)
    return PointSample(
        index=told.sample,
        name=None if target is None else said_name(reply) or None,
        target=target,
        hand=_box(said.hand),
        ray=_ray(said.ray),
        ended_by=told.ended_by or "answer",
        turns=told.texts,
    )


def answer_of(ended: Mapping[int, PointSample], question: str, size: tuple[int, int], seconds: float) -> PointAnswer:
    """The draw that most others agree with, beside all. `size` is (width, height) of the photo turned upright."""
    samples = tuple(ended[index] for index in sorted(ended))
    agreed = agreement([sample.target for sample in samples])
    best = samples[agreed.best]
    return PointAnswer(
        name=best.name,
        target=best.target,
        hand=best.hand,
        ray=best.ray,
        confidence=agreed.share if len(samples) > 1 else None,
        best=agreed.best,
        question=question,
        width=size[0],
        height=size[1],
        seconds=seconds,
        samples=samples,
    )


def _box(box: geometry.Box | None) -> Box | None:
    return box if box is not None and all(map(math.isfinite, box)) else None


def _ray(ray: geometry.Segment | None) -> RaySegment | None:
    if ray is None or not all(math.isfinite(value) for point in ray for value in point):
        return None
    return RaySegment(start=ray[0], end=ray[1])
