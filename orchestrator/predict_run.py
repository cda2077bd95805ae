"""Asks an exported model about photos or a data file: the whole episode of each, on one engine in this process.

photos, task files --> Task(prompt as the model was trained with) --Player, vLLM--> trajectories --> Answer
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.player import Order, Player
from actors.vllm_engine import VllmEngine
from orchestrator.evaluation.answers import Answer, answers
from pointing.coordinates import Size, fit_to_grid
from pointing.data_rows import SUFFIXES
from pointing.dataset import DatasetOptions, read
from pointing.drawing import ImageError
from pointing.image_check import image_size
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import read_info, read_tokenizer
from policy.conversation.spoken import Spoken
from schemas.config import Data, EngineOptions, Rollout, Sampling
from schemas.task import GroundTruth, Task

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
TOGETHER = 32  # tasks whose images are held at once
TEXT_TOKENS = 1024  # room for the words of a conversation that are not sampled
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked: tasks with the prompt that the model gets, and each one's question as it was put."""

    tasks: tuple[Task, ...]
    questions: tuple[str, ...]


def read_asked(files: Sequence[str], spoken: Spoken, question: str | None) -> Asked:
    """Tasks of photos, folders of photos and task files, in the order given.

    `question` takes the place of each one's own. Raises ImageError, DatasetError, which name the file.
    """
    tasks: list[Task] = []
    for file in files:
        if Path(file).suffix.lower() in SUFFIXES:
            tasks += read(DatasetOptions((file,))).tasks
        else:
            tasks += [_of_photo(photo, question or spoken.question) for photo in _photos(Path(file))]
    questions = tuple(question or task.question for task in tasks)
    prompts = [task.model_copy(update={"prompt": spoken.asked(q)}) for task, q in zip(tasks, questions, strict=True)]
    return Asked(tuple(prompts), questions)


def _photos(path: Path) -> list[Path]:
    """A photo, or all of a folder by name."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in PHOTOS)
    if not found:
        raise ImageError(f"{path}: a folder without {', '.join(PHOTOS)} files; name the photos")
    return found


def _of_photo(photo: Path, question: str) -> Task:
    size = image_size(photo)
    return Task(
        task_id=str(photo),
        prompt=f"<image>{question}",
        images=(str(photo),),
        image_sizes=((size.width, size.height),),
        ground_truth=GroundTruth(),
        source=str(photo),
    )


class Oracle:
    """A model that answers, on the one engine that this process can have."""

    def __init__(self, model: str, spoken: Spoken, asked: Asked, least: int | None = None) -> None:
        """An engine with room for these tasks. `least` is the least area of an image as the model sees it, in pixels;
        default: what these tasks allow.
        """
        images = max(len(task.images) for task in asked.tasks)
        info = read_info(model, "--model")
        chat = ChatFormat(read_tokenizer(model), spoken.system_prompt)
        data = Data(
            train_files="-",  # read_asked has read them
            system_prompt=spoken.system_prompt,
            prompt_style="short",  # the prompt is whole already
            min_pixels=least or least_pixels(asked, spoken, info.family.grid),
            max_pixels=spoken.max_pixels,
            max_images=images,
        )
        longest = spoken.max_turns * (spoken.max_new_tokens + TEXT_TOKENS)
        longest += (images + spoken.max_turns - 1) * (spoken.max_pixels // info.family.grid**2)
        rollout = Rollout(
            max_turns=spoken.max_turns, max_tokens_per_turn=spoken.max_new_tokens, engine=_engine(model, longest)
        )
        engine = VllmEngine(
            model,
            rollout.engine,
            forbidden_ids=chat.forbidden_ids(info.vocab_size),
            max_images=images + spoken.max_turns - 1,
            pixels=data.pixels,
            seed=0,
        )
        self._player = Player(engine, info, chat, data, rollout)

    def answers(self, asked: Asked, samples: int, sampling: Sampling) -> Iterator[Answer]:
        """An answer a task, in order, each as soon as its part of the tasks is played."""
        for first in range(0, len(asked.tasks), TOGETHER):
            tasks, questions = asked.tasks[first : first + TOGETHER], asked.questions[first : first + TOGETHER]
            order = Order(f"predict-{first}", tasks, samples, sampling, shards=len(tasks))
            for number, shard in enumerate(self._player.play(order)):
                one = slice(number, number + 1)
                yield from answers(shard.rollout.to_pylist(), tasks[one], questions[one])


def least_pixels(asked: Asked, spoken: Spoken, grid: int) -> int:
    """The model's own least area of an image, or half of it where an image of some shape would not fit otherwise: sides
    are multiples of `grid` pixels, and between narrow bounds there may be none.
    """
    for width, height in {size for task in asked.tasks for size in task.image_sizes}:
        try:
            fit_to_grid(Size(width, height), grid, spoken.min_pixels, spoken.max_pixels)
        except ValueError:
            return spoken.min_pixels // 2
    return spoken.min_pixels


def _engine(model: str, longest: int) -> EngineOptions:
    """Room for two of the longest conversations at once at least, within what the model can read."""
    whole: dict[str, Any] = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = whole.get("text_config", whole)
    length = min(longest, int(text.get("max_position_embeddings", longest)))
    heads = int(text.get("num_key_value_heads") or text["num_attention_heads"])
    width = int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])
    token = 2 * int(text["num_hidden_layers"]) * heads * width * FLOAT_BYTES
    options = EngineOptions(max_model_len=length, max_num_seqs=TOGETHER)
    return options.model_copy(
        update={
            "dtype": "bfloat16" if torch.cuda.is_available() else "float32",
            "kv_cache_bytes": max(options.kv_cache_bytes, 2 * length * token),
        }
    )
