"""pointvg config: a configuration resolved, described for editors, or brought from the published system."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Config, Overrides, Overwrite, example, loaded_as_it_says, refused
from schemas.config.file import ConfigError, annotated

config_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Show a configuration, or bring one from the published system."
)


@config_app.command(epilog=example("pointvg config show --config configs/grpo.yaml trainer.epochs=2"))
def show(config: Config, overrides: Overrides = None) -> None:
    """Print every setting with its value and where that came from: a line of the file, the command line, a default."""
    typer.echo(annotated(loaded_as_it_says(config, overrides)), nl=False)


class Kind(StrEnum):
    """What a configuration file is for."""

    train = "train"
    sft = "sft"
    tiny = "tiny"
    reward = "reward"
    pointer = "pointer"


@config_app.command(epilog=example("pointvg config schema train --out train.schema.json"))
def schema(
    kind: Annotated[Kind, typer.Argument(help="the command that reads the file; reward and pointer are for `serve`")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="file to write; default: print it")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Print the JSON Schema of a kind of file, with which an editor completes and checks it.

    The shipped files name theirs, in configs/schemas/.
    """
    from files.owned import write_file
    from schemas.config.json_schema import json_schema

    text = json_schema(kind.value)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_file(out, text, overwrite=overwrite)
        typer.echo(f"written      {out}")


@config_app.command("import", epilog=example("pointvg config import old.yaml worker.rollout.n=5 --out new.yaml"))
def import_(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="YAML configuration of the published system")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="what its launch script gave: overrides, environment variables"),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="file to write; default: print it")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a configuration of the published system into one of ours; see docs/migrating.md."""
    from files.owned import refuse_file, write_file
    from migration.convert import import_config

    if out is not None:
        refuse_file(out, overwrite=overwrite)
    try:
        imported = import_config(old, overrides or ())
    except ConfigError as error:
        raise refused(error) from None
    if out is None:
        typer.echo(imported.yaml(), nl=False)
    else:
        write_file(out, imported.yaml(), overwrite=overwrite)
    typer.echo(imported.report(), err=out is None)


@config_app.command(epilog=example("pointvg config migrating docs/migrating.md --overwrite"))
def migrating(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="file to write")] = Path("docs/migrating.md"),
    overwrite: Overwrite = False,
) -> None:
    """Write docs/migrating.md again, from the table of settings."""
    from files.owned import write_file
    from migration.convert import migrating as page

    write_file(out, page(), overwrite=overwrite)
    typer.echo(f"written      {out}")
