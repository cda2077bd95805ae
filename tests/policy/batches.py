"""Small batches for tests: random images, random transcripts, and the tables a learner gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from policy.conversation.chat_format import ChatFormat
from policy.conversation.ledger import Ledger
from policy.conversation.model_info import read_info, read_tokenizer
from policy.conversation.seen_image import Seen, encode
from policy.learning.learner import PolicyLearner
from schemas import batch
from schemas.config import Algorithm, Learner, Model, Optimiser

ARCHITECTURES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
QUESTION = "What is the hand pointing at?"


class Maker:
    """Draws conversations for one checkpoint folder."""

    def __init__(self, folder: str, seed: int = 0) -> None:
        self.info = read_info(folder)
        self.chat = ChatFormat(read_tokenizer(folder))
        self.random = np.random.default_rng(seed)

    def image(self, columns: int = 2, rows: int = 2) -> Seen:
        """Noise of columns x rows visual tokens."""
        grid = self.info.family.grid
        noise = self.random.integers(0, 256, (rows * grid, columns * grid, 3), dtype=np.uint8)
        return encode(Image.fromarray(noise), self.info.family)

    def sampled(self, ledger: Ledger, length: int, end: str) -> None:
        """Appends a turn of random ids that ends as asked."""
        forbidden = set(self.chat.forbidden_ids(self.info.vocab_size))
        allowed = [i for i in range(self.info.vocab_size) if i not in forbidden]
        ids = [int(i) for i in self.random.choice(allowed, length)] + self.chat._encode(end)
        ledger.append_sampled(ids, (-6 * self.random.random(len(ids))).tolist(), 0, self.chat.decode(ids), "stop")

    def conversation(self, first: Seen | None, second: Seen | None) -> Ledger:
        """Two turns, with up to two images."""
        opening = [first.ref] if first else []
        ledger = Ledger(self.chat.prompt_ids(QUESTION, len(opening)), opening, self.info.image_token_id)
        self.sampled(ledger, int(self.random.integers(2, 7)), "</tool_call>")
        shown = [second.ref] if second else []
        ledger.append_observation(self.chat.observation_ids("Look again:", bool(shown)), shown)
        self.sampled(ledger, int(self.random.integers(1, 5)), "<|im_end|>")
        return ledger


def make_batch(
    folder: str,
    *,
    groups: int = 2,
    samples: int = 3,
    images: bool = True,
    mini_batches: int = 1,
    seed: int = 0,
    sizes: Sequence[tuple[int, int]] = ((2, 2), (3, 2), (2, 2), (1, 3)),
) -> tuple[pa.Table, pa.Table]:
    """A TRAINING table on one rank in one micro-batch per optimiser step, and its IMAGES."""
    maker = Maker(folder, seed)
    ledgers: list[Ledger] = []
    names: list[str] = []
    pictures: dict[str, tuple[str, bytes]] = {}
    for group in range(groups):
        first = maker.image(*sizes[group % len(sizes)]) if images else None
        for sample in range(samples):
            second = maker.image(*sizes[sample % len(sizes)]) if images else None
            pictures |= {s.ref.digest: (f"g{group}", s.png) for s in (first, second) if s}
            ledgers.append(maker.conversation(first, second))
            names.append(f"g{group}/{sample}")
    masks = [np.asarray(ledger.mask()) for ledger in ledgers]
    step = [row * mini_batches // len(ledgers) for row in range(len(ledgers))]
    tokens = [sum(int(m.sum()) for m, s in zip(masks, step, strict=True) if s == number) for number in step]
    training = pa.table(
        {
            "trajectory_id": names,
            "group_id": [name.split("/")[0] for name in names],
            "token_ids": [ledger.learner_ids() for ledger in ledgers],
            "mask": masks,
            "image_digests": [[i.digest for i in ledger.images] for ledger in ledgers],
            "image_grids": [[i.grid for i in ledger.images] for ledger in ledgers],
            "behaviour_logprobs": [ledger.behaviour_logprobs() for ledger in ledgers],
            "reference_logprobs": [(-6 * maker.random.random(len(m)) * m).tolist() for m in masks],
            "advantages": [(maker.random.normal() * m).tolist() for m in masks],
            "optimiser_step": step,
            "rank": [0] * len(names),
            "micro_batch": [0] * len(names),
            "denominator": [float(count) for count in tokens],
        },
        schema=batch.TRAINING,
    )
    table = pa.table(
        {
            "digest": list(pictures),
            "group_id": [group for group, _ in pictures.values()],
            "png": [png for _, png in pictures.values()],
        },
        schema=batch.IMAGES,
    )
    return batch.check(training, batch.TRAINING, "test"), table


def split(table: pa.Table, ranks: int, micro_batch_rows: int) -> pa.Table:
    """The same batch over ranks and micro-batches, dealt row by row within each optimiser step."""
    step = table.column("optimiser_step").to_pylist()
    seat = [step[:row].count(step[row]) for row in range(len(step))]
    return replace(
        table,
        rank=[s % ranks for s in seat],
        micro_batch=[s // ranks // micro_batch_rows for s in seat],
    )


def replace(table: pa.Table, **columns: list) -> pa.Table:
    """The table with other values in some columns."""
    for name, values in columns.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def assert_same_gradients(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], tolerance: float = 1e-5
) -> None:
    """Equal up to `tolerance` of the largest entry of the whole gradient."""
    assert found.keys() == expected.keys()
    largest = max(grad.abs().max().item() for grad in expected.values())
    assert largest > 0
    for name, grad in expected.items():
        difference = (found[name] - grad).abs().max().item()
        assert difference <= tolerance * largest, f"{name}: {difference} of {largest}"


def learner_of(folder: str, **model: Any) -> PolicyLearner:
    """A learner of nine steps with a schedule; `model` are further settings of it."""
    optimiser = Optimiser(lr=1e-3, warmup_steps=3, schedule="cosine")
    return PolicyLearner(
        Model(path=folder, **model), Learner(optimiser=optimiser), Algorithm(), total_steps=9, temperature=1.0
    )
