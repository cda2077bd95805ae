"""pointvg config ...: show a configuration resolved, or bring one from the published system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from schemas.config import SftConfig, TinyConfig, TrainConfig
from schemas.config.file import ConfigError, annotated, load, merge
from schemas.config.service import ServiceConfig

config_app = typer.Typer(no_args_is_help=True, help=__doc__)
Extra = Annotated[list[str] | None, typer.Argument(help="dotted overrides, such as trainer.max_steps=3")]


def kind_of(values: dict[str, Any]) -> type[BaseModel]:
    """Which configuration a file is, by its sections."""
    trainer = values.get("trainer")
    if "architecture" in values:
        return TinyConfig
    if isinstance(trainer, dict) and "samples" in trainer:
        return SftConfig
    return TrainConfig if trainer is not None else ServiceConfig


@config_app.command()
def show(
    config: Annotated[Path, typer.Option("--config", help="YAML file; see configs/")], overrides: Extra = None
) -> None:
    """Print every setting with its value and where that came from: a line of the file, the command line, a default."""
    try:
        values, _ = merge(config, overrides or ())
        loaded = load(kind_of(values), config, overrides or ())
    except ConfigError as error:
        typer.echo(f"configuration refused:\n{error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(annotated(loaded), nl=False)


@config_app.command("import")
def import_(
    old: Annotated[Path, typer.Argument(help="YAML configuration of the published system")],
    overrides: Annotated[list[str] | None, typer.Argument(help="its overrides and environment variables")] = None,
    out: Annotated[Path | None, typer.Option(help="file to write; default: print the new configuration")] = None,
) -> None:
    """Turn a configuration of the published system into one of ours; see docs/migrating.md."""
    from migration.convert import import_config

    try:
        imported = import_config(old, overrides or ())
    except ConfigError as error:
        typer.echo(f"configuration refused:\n{error}", err=True)
        raise typer.Exit(2) from None
    if out is None:
        typer.echo(imported.yaml(), nl=False)
    elif out.exists():
        typer.echo(f"refused: {out} exists; name another file", err=True)
        raise typer.Exit(2)
    else:
        out.write_text(imported.yaml(), encoding="utf-8")
    typer.echo(imported.report(), err=out is None)


@config_app.command()
def migrating(out: Annotated[Path, typer.Argument(help="file to write")] = Path("docs/migrating.md")) -> None:
    """Write docs/migrating.md again, from the table of settings."""
    from migration.convert import migrating as page

    out.write_text(page(), encoding="utf-8")
    typer.echo(f"written      {out}")
