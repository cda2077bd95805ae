"""pointvg eval: plays held-out tasks with a model."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import CONFIG_HELP, Overrides, Overwrite, loaded
from schemas.config import TrainConfig


class Split(StrEnum):
    """The files of a configuration that are not trained on."""

    validation = "validation"
    test = "test"


def evaluate(
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)] = None,
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(metavar="DIR", help="model folder in place of model.path")] = None,
    split: Annotated[Split, typer.Option(help="which files of the data section")] = Split.validation,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="write every number here, as JSON")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print every number as JSON in place of the table")] = False,
    replies: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write a reply of each task as JSON lines, which pointvg score reads"),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="draw each of these replies over its image, in a folder")
    ] = None,
    overwrite: Overwrite = False,
    predictions: Annotated[Path | None, typer.Option(hidden=True)] = None,
    data: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Play held-out tasks with a model, and print reward and metrics.

    Trains nothing. `pointvg score` scores replies that any model has given before. The replies that can be kept are the
    greedy ones (`validation.greedy`), or else of each task's draws the one that most others agree with.
    """
    if predictions is not None or data is not None:
        typer.echo("eval plays a model; for replies in a file: pointvg score --predictions FILE --data FILE", err=True)
        raise typer.Exit(2)
    if config is None:
        raise typer.BadParameter("name the YAML file of the model's run", param_hint="--config")
    extra = [*(overrides or ()), *([f"model.path={json.dumps(model)}"] if model else ())]
    chosen = loaded(TrainConfig, config, extra).config
    from files.owned import refuse_file, refuse_folder, write_file
    from orchestrator.evaluation.answer_pictures import draw_answers
    from orchestrator.evaluation.answers import kept_answers
    from orchestrator.evaluation.evaluation_table import print_evaluation
    from orchestrator.train_run import run_evaluation

    for file in (out, replies):
        if file is not None:
            refuse_file(file, overwrite=overwrite)
    if pictures is not None:
        refuse_folder(pictures, overwrite=overwrite)
    result = run_evaluation(chosen, split.value)
    numbers = result.numbers
    text = json.dumps(numbers, indent=2, sort_keys=True) + "\n"
    if as_json:
        typer.echo(text, nl=False)
    else:
        print_evaluation(numbers)
    if out is not None:
        write_file(out, text, overwrite=overwrite)
        typer.echo(f"numbers      {out}", err=as_json)
    if replies is not None or pictures is not None:
        found, tasks = kept_answers(result.trajectories, result.tasks)
        if replies is not None:
            write_file(replies, "".join(f"{answer.model_dump_json()}\n" for answer in found), overwrite=overwrite)
            typer.echo(f"replies      {replies}", err=as_json)
        if pictures is not None:
            draw_answers(found, tasks, pictures, "pointvg eval", overwrite=overwrite)
            typer.echo(f"pictures     {pictures}", err=as_json)
