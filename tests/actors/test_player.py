"""What is played is what was checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from actors.engine import Completion, Request
from actors.player import Order, Player
from pointing.dataset import DatasetOptions, read
from pointing.scenes import write_scenes
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import read_info, read_tokenizer
from schemas.config import Data, Rollout, Sampling

MODEL = str(Path(__file__).parents[2] / "models" / "tiny")


class Asked(Exception):
    """The engine was asked for a turn."""


class NoEngine:
    """Stands for an engine where none is to be reached."""

    def add(self, request: Request) -> None:
        raise Asked

    def step(self) -> list[Completion]:
        return []

    def busy(self) -> bool:
        return False

    def load_weights(self, weights: object, version: int) -> None: ...

    def forget(self) -> None: ...

    def abort_all(self) -> None: ...


def test_an_image_that_was_replaced_by_one_of_another_size_is_named(tmp_path: Path) -> None:
    write_scenes(tmp_path, train=1, validation=0, test=0, seed=3)
    (task,) = read(DatasetOptions((str(tmp_path / "train.jsonl"),))).tasks
    data = Data(train_files="-", min_pixels=28 * 28, max_pixels=224 * 224)
    player = Player(NoEngine(), read_info(MODEL), ChatFormat(read_tokenizer(MODEL)), data, Rollout())
    order = Order("0", (task,), 1, Sampling())
    with pytest.raises(Asked):
        next(player.play(order))
    with Image.open(task.images[0]) as image:
        before = image.size
        half = image.resize((before[0] // 2, before[1] // 2))
    half.save(task.images[0])
    size = f"{half.width} x {half.height}"
    said = rf"train\.jsonl:1: .* has {size} pixels and had {before[0]} x {before[1]} when the run began"
    with pytest.raises(ValueError, match=said):
        next(player.play(order))
