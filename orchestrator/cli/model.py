"""pointvg tiny, export and halve: commands that write a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import COMMANDS, Config, Overrides, Overwrite, loaded, loaded_as_it_says
from schemas.config import SftConfig, TinyConfig, TrainConfig
from schemas.config.file import ConfigError


def tiny(config: Config, overrides: Overrides = None, overwrite: Overwrite = False) -> None:
    """Make the small model and ground its vision.

    Random weights, a tokenizer of its own, and a vision tower trained on synthetic scenes. Next: pointvg sft.
    """
    chosen = loaded(TinyConfig, config, overrides).config
    from orchestrator.tiny_run import run_tiny

    typer.echo(f"model        {run_tiny(chosen, overwrite=overwrite).export}")


def export(
    config: Config,
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder to write")],
    overrides: Overrides = None,
    step: Annotated[int | None, typer.Option(help="which checkpoint; default: the best, else the last")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a run's checkpoint as a Hugging Face model.

    The folder has weights, tokenizer, processor, prompt, model card and point.py, which plays both looks at an image
    with transformers alone. A run writes the same at its end, to RUN/export.
    """
    chosen = loaded_as_it_says(config, overrides).config
    if not isinstance(chosen, SftConfig | TrainConfig):
        own = COMMANDS[type(chosen)]
        raise ConfigError(f"{config}: this file is for `pointvg {own}`; export reads those of train and sft")
    from orchestrator.export_run import run_export

    typer.echo(f"model        {run_export(chosen, out, step, overwrite=overwrite)}")


def halve(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="model folder with one weight file")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="folder to write")],
    overwrite: Overwrite = False,
) -> None:
    """Copy a model folder with float16 weights.

    Half the size to ship, as the small model is; everything else is copied as it is.
    """
    from policy.state.export import halve as write_half

    write_half(model, out, overwrite=overwrite)
    typer.echo(f"model        {out}")
