"""Reads a split's tasks as the configuration asks, leaving out prompts that are too long for the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pointing.coordinates import fit_to_grid
from pointing.dataset import Dataset, DatasetOptions, read
from pointing.image_check import image_size
from policy.conversation.chat_format import ChatFormat, ChatFormatError
from policy.conversation.model_info import model_tokenizer, read_info
from policy.conversation.question import question_text
from schemas.config import Data, Model, SftConfig, TrainConfig
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
    dataset = read_dataset(config.data, files, prompt_counter(config.model, config.data))
    for rejection in dataset.rejected[:10]:
        print(f"left out     {rejection.source}: {rejection.field}: {rejection.reason}")
    if len(dataset.rejected) > 10:
        print(f"left out     {len(dataset.rejected) - 10} more lines that cannot be used")
    if dataset.overlong:
        print(
            f"left out     {dataset.overlong} tasks longer than data.max_prompt_tokens={config.data.max_prompt_tokens}"
        )
    if not dataset.tasks:
        raise ValueError(f"data.{split}_files={files!r} holds no usable task")
    return dataset.tasks


def files_of(data: Data, split: Split) -> tuple[str, ...]:
    """The files of a split; () where none are configured."""
    files = {"train": data.train_files, "validation": data.validation_files, "test": data.test_files}[split]
    return ((files,) if files else ()) if isinstance(files, str) else files


def prompt_counter(model: Model, data: Data) -> Callable[[Task], int]:
    """Counts the tokens of a task's prompt as the policy will see it, images expanded.

    Raises SettingError where no prompt can be written with the model's tokenizer and chat template.
    """
    info = read_info(model.path)
    try:
        chat = ChatFormat(model_tokenizer(model), data.system_prompt)
    except ChatFormatError as error:
        own = model.chat_template is not None
        field, value = ("model.chat_template", model.chat_template) if own else ("model.path", model.path)
        raise SettingError(field, value, error.reason, error.remedy) from None

    def count(task: Task) -> int:
        text = question_text(task.question, data.prompt_style, info.family.frame_kind)
        tokens = len(chat.prompt_ids(text, len(task.images)))
        for path in task.images:
            seen = fit_to_grid(image_size(Path(path)), info.family.grid, data.min_pixels, data.max_pixels)
            tokens += (seen.width // info.family.grid) * (seen.height // info.family.grid) - 1
        return tokens

    return count


def read_dataset(
    data: Data, files: tuple[str, ...], count: Callable[[Task], int], rows_per_file: int | None = None
) -> Dataset:
    """Reads files with prompt lengths as `count` says; of each file the first rows alone, if a number is given."""
    return read(
        DatasetOptions(
            files=files,
            prompt_key=data.prompt_key,
            ground_truth_key=data.ground_truth_key,
            images_key=data.image_key,
            videos_key=data.video_key,
            image_dir=data.image_dir,
            on_error=data.on_error,
            max_prompt_length=data.max_prompt_tokens,
            rows_per_file=rows_per_file,
        ),
        count,
    )
