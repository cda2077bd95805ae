"""Options that several commands share, and how they read a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from schemas.config import SftConfig, TinyConfig, TrainConfig
from schemas.config.file import ConfigError, Loaded, load, merge
from schemas.config.pointer import PointerConfig
from schemas.config.service import ServiceConfig

CONFIG_HELP = "YAML file; configs/ has one for each purpose"
Config = Annotated[Path, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.FIELD=VALUE]...", help="settings in place of the file's: trainer.max_steps=3"),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="replace what this command wrote there before; files of others always stay"),
]
T = TypeVar("T", bound=BaseModel)
COMMANDS: dict[type[BaseModel], str] = {
    TinyConfig: "tiny",
    SftConfig: "sft",
    TrainConfig: "train",
    ServiceConfig: "serve reward",
    PointerConfig: "serve pointer",
}


def example(*commands: str) -> str:
    """The lines below a command's help, as they are typed."""
    return "\n".join(("\b", "Example:", *(f"  {command}" for command in commands)))


def loaded(kind: type[T], config: Path, overrides: Sequence[str] | None) -> Loaded[T]:
    """A configuration with the origin of every value. Says what is wrong with it and ends the command otherwise."""
    try:
        return load(kind, config, overrides or ())
    except ConfigError as error:
        raise refused(_of_another_command(kind, config) or error) from None


def loaded_as_it_says(config: Path, overrides: Sequence[str] | None) -> Loaded[Any]:
    """The same for a file of any kind; see kind_of."""
    try:
        kind = kind_of(merge(config, overrides or ())[0])
    except ConfigError as error:
        raise refused(error) from None
    return loaded(kind, config, overrides)


def _of_another_command(kind: type[BaseModel], config: Path) -> ConfigError | None:
    """What to say of a file that is right as it is, for another command."""
    try:
        own = kind_of(merge(config)[0])
        load(own, config)
    except ConfigError:
        return None
    if own is kind:
        return None
    return ConfigError(f"{config}: this file is for `pointvg {COMMANDS[own]}`, not for `pointvg {COMMANDS[kind]}`")


def kind_of(values: dict[str, Any]) -> type[BaseModel]:
    """Which configuration a file is, by its sections."""
    trainer = values.get("trainer")
    if "architecture" in values:
        return TinyConfig
    if isinstance(trainer, dict) and "samples" in trainer:
        return SftConfig
    if trainer is not None:
        return TrainConfig
    return PointerConfig if "pointer" in values else ServiceConfig


def refused(error: ConfigError) -> typer.Exit:
    """Says what is wrong with a configuration; the exit to raise."""
    typer.echo(f"configuration refused:\n{error}", err=True)
    return typer.Exit(2)
