"""pointvg report: what a run's folder tells, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.options import COMMANDS, Overwrite, loaded_as_it_says
from schemas.config import SftConfig, TrainConfig
from schemas.config.file import ConfigError

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="the run's folder, such as runs/quickstart")]


def report(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="default: report.html in the run's folder")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a run's report: one page of HTML with everything in it.

    What was run, before and after, what went wrong, curves, time and replies over their images. Every run writes it at
    its end; this makes it anew, also of a run that goes on or was stopped.
    """
    config = config_of(run)
    from files.owned import refuse_file
    from orchestrator.report.page import write_report
    from orchestrator.run_folder.folder import RunFolder

    if out is not None:
        refuse_file(out, overwrite=overwrite)
    typer.echo(f"report       {write_report(RunFolder(run), config, out, overwrite=overwrite)}")


def config_of(run: Path) -> Any:
    """The configuration of a run's folder. Raises ConfigError where the folder is not that of a run."""
    file = run / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{run}: holds no config.yaml; name the folder of a run, such as runs/quickstart")
    config = loaded_as_it_says(file, None).config
    if not isinstance(config, TrainConfig | SftConfig):
        raise ConfigError(f"{file}: is for `pointvg {COMMANDS[type(config)]}`; a report is of a run of train or sft")
    return config
