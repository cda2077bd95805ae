"""Asks an exported model about photos or a data file: the whole episode of each, on one engine in this process.

photos, task files --> Task(prompt as the model was trained with) --Player, vLLM--> trajectories --> Answer
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.exported import open_player
from actors.player import Order
from orchestrator.evaluation.answers import Answer, answers
from pointing.coordinates import Size, fit_to_grid
from pointing.data_rows import SUFFIXES
from pointing.dataset import DatasetOptions, read
from pointing.drawing import ImageError
from pointing.image_check import image_size
from policy.conversation.model_info import read_info
from policy.conversation.spoken import Spoken
from schemas.config import Sampling
from schemas.task import GroundTruth, Task

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
TOGETHER = 32  # tasks whose images are held at once


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
        least = least or least_pixels(asked, spoken, read_info(model, "--model").family.grid)
        self._player = open_player(model, spoken, images, least)

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
