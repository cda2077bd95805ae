"""Reads a split's tasks as the configuration asks, leaving out prompts that are too long for the model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pointing.coordinates import fit_to_grid
from pointing.dataset import Dataset, DatasetOptions, read
from pointing.image_check import image_size
from policy.info import model_tokenizer, read_info
from policy.question import question_text
from policy.turns import ChatFormat
from schemas.config import Data, Model, SftConfig, TrainConfig
from schemas.config_file import ConfigError
from schemas.task import Task

Split = Literal["train", "validation", "test"]


def read_split(config: TrainConfig | SftConfig, split: Split) -> tuple[Task, ...]:
    """The tasks of one split; () when no files are configured for it. Prints what was left out.

    Raises DatasetError naming file, line, field and reason.
    """
    files = {"train": config.data.train_files, "validation": config.data.validation_files}.get(
        split, config.data.test_files
    )
    if not files:
        return ()
    dataset = read_dataset(config.model, config.data, (files,) if isinstance(files, str) else files)
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


def read_dataset(model: Model, data: Data, files: tuple[str, ...]) -> Dataset:
    """Reads files with prompt lengths counted as the policy will see them."""
    info = read_info(model.path)
    try:
        chat = ChatFormat(model_tokenizer(model), data.system_prompt)
    except ValueError as error:
        raise ConfigError(f"{model.chat_template or model.path}: {error}") from None

    def prompt_length(task: Task) -> int:
        text = question_text(task.question, data.prompt_style, info.family.frame_kind)
        tokens = len(chat.prompt_ids(text, len(task.images)))
        for path in task.images:
            seen = fit_to_grid(image_size(Path(path)), info.family.grid, data.min_pixels, data.max_pixels)
            tokens += (seen.width // info.family.grid) * (seen.height // info.family.grid) - 1
        return tokens

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
        ),
        prompt_length,
    )
