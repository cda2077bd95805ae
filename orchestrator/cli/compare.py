"""pointvg compare: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Overwrite
from orchestrator.cli.report import config_of
from schemas.config.file import ConfigError


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="their folders; the first is the measure")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="write a page of HTML too")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare runs by their last validations, each task with itself.

    Prints every metric with its change from the first run and its 95 % interval. Runs that were validated on other
    tasks are refused.
    """
    if len(runs) < 2:
        raise ConfigError(f"compare takes two runs or more, given {len(runs)}; name their folders one after another")
    configs = [config_of(run) for run in runs]
    from files.owned import refuse_file, write_file
    from orchestrator.report.compare import compare as compared
    from orchestrator.report.compare import comparison_html, print_comparison
    from orchestrator.report.run_record import read_run
    from orchestrator.run_folder.folder import RunFolder

    if out is not None:
        refuse_file(out, overwrite=overwrite)
    page = compared([read_run(RunFolder(run), config) for run, config in zip(runs, configs, strict=True)])
    print_comparison(page)
    if out is not None:
        write_file(out, comparison_html(page), overwrite=overwrite)
        typer.echo(f"page         {out}")
