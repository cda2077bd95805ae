"""Supervised conversations: what a rollout would have recorded had the model said what the ground truth says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pointing.coordinates import Frame, Size
from pointing.drawing import open_image, visible_part
from pointing.episode import Ended, Episode
from pointing.grammar import parse
from pointing.prompts import transcript
from pointing.transcript_check import check_own
from policy.conversation.chat_format import ChatFormat
from policy.conversation.ledger import ImageRef, Ledger
from policy.conversation.model_info import ModelInfo
from policy.conversation.question import question_text
from policy.conversation.seen_image import encode, see
from schemas import batch
from schemas.config import Data
from schemas.config.micro_batches import MicroBatches
from schemas.row_problem import FieldError
from schemas.task import Task


@dataclass(frozen=True, slots=True)
class Supervised:
    """A conversation whose mask marks the targets, and its images as PNG by digest."""

    task_id: str
    ledger: Ledger
    images: dict[str, bytes]


def check_transcript(task: Task, frame: Frame, data: Data) -> None:
    """Raises FieldError where `supervised` could not make a conversation of this task; `data` names its fields."""
    if task.transcript is not None:
        check_own(task.transcript, task.ground_truth, frame, data.transcript_key)
        turns, field = task.transcript.turns, f"{data.transcript_key}[0]"
    else:
        field = f"{data.ground_truth_key}.pointing_ray"
        try:
            turns = transcript(task.ground_truth, frame)
        except FieldError as error:
            path = error.field.replace("ground_truth", data.ground_truth_key, 1)
            raise FieldError(path, error.reason, error.remedy, error.value) from None
    for call in (call for turn in turns[:-1] for call in parse(turn, strict=True).rays):
        try:
            visible_part(frame.to_seen(*call.start), frame.to_seen(*call.end), frame.seen)
        except ValueError as error:
            raise FieldError(field, str(error), "correct it, or raise data.min_pixels") from None


def supervised(task: Task, info: ModelInfo, chat: ChatFormat, data: Data) -> Supervised:
    """Plays the task's transcript, or the one that says its ground truth, through the same episode and ledger as a
    rollout.

    Raises ValueError naming the task when its ground truth lacks a part of the transcript.
    """
    originals = [open_image(path) for path in task.images]
    seen = [see(image, info.family, data.min_pixels, data.max_pixels) for image in originals]
    frame = Frame(info.family.frame_kind, Size(*originals[0].size), Size(*seen[0].image.size))
    try:
        turns = transcript(task.ground_truth, frame) if task.transcript is None else task.transcript.turns
    except ValueError as error:
        raise ValueError(f"{task.source or task.task_id}: {error}") from None
    episode = Episode([s.image for s in seen], frame, max_turns=len(turns))
    pictures = {s.ref.digest: s.png for s in seen}
    observations: list[tuple[str, ImageRef | None]] = []
    for turn in turns[:-1]:
        outcome = episode.step(turn)
        if isinstance(outcome, Ended) or outcome.image is None:
            said = outcome.reason if isinstance(outcome, Ended) else outcome.text
            raise ValueError(f"{task.source or task.task_id}: the true ray cannot be drawn: {said}")
        drawn = encode(outcome.image, info.family)
        pictures[drawn.ref.digest] = drawn.png
        observations.append((outcome.text, drawn.ref))
    question = question_text(task.question, data.prompt_style, info.family.frame_kind)
    ledger = chat.sft_ledger(question, [s.ref for s in seen], turns, observations)
    return Supervised(task.task_id, ledger, pictures)


def to_tables(
    rows: Sequence[Supervised], *, rank: int, micro_batches: MicroBatches, denominator: float
) -> tuple[pa.Table, pa.Table]:
    """TRAINING rows of one rank, with an advantage of 1 on every target, and their IMAGES.

    `denominator` is the number of target tokens of the whole optimiser step, on all ranks.
    """
    ledgers = [row.ledger for row in rows]
    masks = [ledger.mask() for ledger in ledgers]
    micro_batch = [0] * len(rows)
    for number, part in enumerate(micro_batches.fill([len(mask) for mask in masks])):
        for row in part:
            micro_batch[row] = number
    training = pa.table(
        {
            "trajectory_id": [row.task_id for row in rows],
            "group_id": [row.task_id for row in rows],
            "token_ids": [ledger.learner_ids() for ledger in ledgers],
            "mask": masks,
            "image_digests": [[image.digest for image in ledger.images] for ledger in ledgers],
            "image_grids": [[image.grid for image in ledger.images] for ledger in ledgers],
            "behaviour_logprobs": [ledger.behaviour_logprobs() for ledger in ledgers],
            "reference_logprobs": pa.nulls(len(rows), batch.TRAINING.field("reference_logprobs").type),
            "advantages": masks,
            "optimiser_step": [0] * len(rows),
            "rank": [rank] * len(rows),
            "micro_batch": micro_batch,
            "denominator": [denominator] * len(rows),
        },
        schema=batch.TRAINING,
    )
    pictures = {digest: (row.task_id, png) for row in rows for digest, png in row.images.items()}
    images = pa.table(
        {
            "digest": list(pictures),
            "group_id": [group for group, _ in pictures.values()],
            "png": [png for _, png in pictures.values()],
        },
        schema=batch.IMAGES,
    )
    return training, images
