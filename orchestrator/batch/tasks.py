"""Reads a split's tasks as the configuration asks, leaving out prompts that are too long for the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pointing.coordinates import Frame, fit_to_grid
from pointing.dataset import SHOWN, Dataset, DatasetOptions, read
from pointing.image_check import image_size
from policy.conversation.chat_format import ChatFormat, ChatFormatError
from policy.conversation.model_info import model_tokenizer, read_info
from policy.conversation.question import question_text
from policy.conversation.transcripts import check_transcript
from schemas.config import Data, SftConfig, TrainConfig
from schemas.config.file import SettingError
from schemas.task import Task

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def read_split(config: TrainConfig | SftConfig, split: Split) -> tuple[Task, ...]:
    """The tasks of one split; () when no files are configured for it. Prints what was left out.

    Raises DatasetError naming file, line, field and reason.
    """
    files = files_of(config.data, split)
    if not files:
        return ()
    dataset = read_dataset(config.data, files, row_reader(config), transcripts=isinstance(config, SftConfig))
    for line in left_out(dataset, config.data):
        print(line)
    if not dataset.tasks:
        raise ValueError(f"data.{split}_files={files!r} holds no usable task")
    return dataset.tasks


def left_out(dataset: Dataset, data: Data) -> Iterator[str]:
    """Lines for people: the rows that are not used, the first of them by name, and how many prompts are too long."""
    for problem in dataset.rejected[:SHOWN]:
        yield f"left out     {problem}"
    if len(dataset.rejected) > SHOWN:
        yield f"left out     {len(dataset.rejected) - SHOWN} more rows that cannot be used"
    if dataset.overlong:
        yield f"left out     {dataset.overlong} tasks longer than data.max_prompt_tokens={data.max_prompt_tokens}"


def files_of(data: Data, split: Split) -> tuple[str, ...]:
    """The files of a split; () where none are configured."""
    files = {"train": data.train_files, "validation": data.validation_files, "test": data.test_files}[split]
    return ((files,) if files else ()) if isinstance(files, str) else files


def row_reader(config: TrainConfig | SftConfig) -> Callable[[Task], int]:
    """Counts the tokens of a task's prompt as the policy will see it, images expanded; raises FieldError for a task
    that stage 1 could write no transcript of.

    Raises SettingError where no prompt can be written with the model's tokenizer and chat template.
    """
    model, data = config.model, config.data
    family = read_info(model.path).family
    try:
        chat = ChatFormat(model_tokenizer(model), data.system_prompt)
    except ChatFormatError as error:
        own = model.chat_template is not None
        field, value = ("model.chat_template", model.chat_template) if own else ("model.path", model.path)
        raise SettingError(field, value, error.reason, error.remedy) from None

    def count(task: Task) -> int:
        text = question_text(task.question, data.prompt_style, family.frame_kind)
        tokens = len(chat.prompt_ids(text, len(task.images)))
        sizes = [image_size(Path(path)) for path in task.images]
        seen = [fit_to_grid(size, family.grid, data.min_pixels, data.max_pixels) for size in sizes]
        if isinstance(config, SftConfig):
            check_transcript(task, Frame(family.frame_kind, sizes[0], seen[0]), data)
        return tokens + sum((size.width // family.grid) * (size.height // family.grid) - 1 for size in seen)

    return count


def read_dataset(
    data: Data,
    files: tuple[str, ...],
    count: Callable[[Task], int],
    rows_per_file: int | None = None,
    damage: Callable[[Path], str] | None = None,
    *,
    transcripts: bool = False,
) -> Dataset:
    """Reads files with prompt lengths as `count` says; of each file the first rows alone, if a number is given.

    `damage` says what is wrong with an image file, looking deeper than at its header. With `transcripts`, those that
    rows hold are read too.
    """
    return read(
        DatasetOptions(
            files=files,
            prompt_key=data.prompt_key,
            ground_truth_key=data.ground_truth_key,
            images_key=data.image_key,
            videos_key=data.video_key,
            transcript_key=data.transcript_key if transcripts else None,
            image_dir=data.image_dir,
            on_error=data.on_error,
            max_prompt_length=data.max_prompt_tokens,
            max_images=data.max_images,
            unpack_dir=data.unpack_dir,
            rows_per_file=rows_per_file,
            damage=damage,
        ),
        count,
    )
