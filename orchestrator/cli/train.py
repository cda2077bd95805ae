"""pointvg train, sft and check: a run of either stage, and what would stop it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from actors.environment import environment, forkable
from actors.forkserver import prestart
from orchestrator.cli.options import COMMANDS, Config, Overrides, loaded, loaded_as_it_says
from schemas.config import SftConfig, SftResources, TrainConfig
from schemas.config.file import ConfigError


def _import_ahead(resources: SftResources) -> None:
    """Lets what actors import be imported while this process imports and reads its own; see actors/forkserver.py."""
    if not os.environ.get("RAY_ADDRESS") and forkable(resources.learner.gpus, resources.threads):
        prestart(environment(resources.learner.gpus, resources.threads))


def sft(config: Config, overrides: Overrides = None) -> None:
    """Stage 1: fine-tune on transcripts.

    They are written from the ground truth. The same command continues a run that was interrupted.
    """
    chosen = loaded(SftConfig, config, overrides).config
    _import_ahead(chosen.resources)
    from orchestrator.sft import run_sft

    typer.echo(f"model        {run_sft(chosen).export}")


def train(config: Config, overrides: Overrides = None) -> None:
    """Stage 2: reinforce with the geometric reward.

    Plays, scores, learns and validates; the run folder keeps numbers, pictures, checkpoints and the exported model. The
    same command continues a run that was interrupted.
    """
    chosen = loaded(TrainConfig, config, overrides).config
    _import_ahead(chosen.resources)
    from orchestrator.cli.summary import print_outcome
    from orchestrator.train_run import run_training

    print_outcome(run_training(chosen))


def check(
    config: Config,
    overrides: Overrides = None,
    every: Annotated[bool, typer.Option("--all", help="read every row, not the first of each file")] = False,
) -> None:
    """Find everything that would stop a run, and start nothing.

    Looks at settings, model, data, reward, machines, memory and disk, and says what it could not check from here.
    """
    found = loaded_as_it_says(config, overrides)
    if not isinstance(found.config, SftConfig | TrainConfig):
        own = COMMANDS[type(found.config)]
        raise ConfigError(f"{config}: this file is for `pointvg {own}`; check reads those of train and sft")
    from orchestrator.preflight.check import check as preflight

    report = preflight(found.config, origins=found.origins, every_row=every, starts_here=False)
    for line in (*report.notes, report.plan):
        typer.echo(line)
    for line in report.unchecked:
        typer.echo(f"not checked  {line}")
    for problem in report.problems:
        typer.echo(f"problem      {problem}", err=True)
    if report.problems:
        typer.echo(f"{len(report.problems)} problem(s); nothing was started", err=True)
        raise typer.Exit(2)
    typer.echo("ready" + (", but for what was not checked" if report.unchecked else ""))
