"""pointvg score: a file of replies in; a table, a JSON file and a picture out."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Overwrite
from schemas.config.file import ConfigError, load
from schemas.config.service import ServiceConfig

if TYPE_CHECKING:
    from schemas.evaluation import EvaluationReport


class FrameKind(StrEnum):
    """How replies write coordinates."""

    pixels = "pixels"
    thousandths = "thousandths"


def score(
    predictions: Annotated[Path, typer.Option(metavar="FILE", help="replies of any model, one to a row")],
    data: Annotated[Path, typer.Option(metavar="FILE", help="the task file that they answer")],
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="a reward service; default: score here")] = None,
    token_env: Annotated[str | None, typer.Option(metavar="NAME", help="environment variable with its token")] = None,
    reward: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file with a reward section; default: published rules")
    ] = None,
    frame: Annotated[
        FrameKind, typer.Option(help="of coordinates: pixels of the original image, or thousandths of it")
    ] = FrameKind.pixels,
    image_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="where the images are; default: beside the task file")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file, with a picture beside it; default: beside FILE"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Score the replies of any model, from a file.

    A row has `response`, and `id` where the rows are not in the order of the tasks. Needs no model and no GPU.
    """
    if endpoint is not None and reward is not None:
        raise ConfigError("--reward has no effect with --endpoint, which has rules of its own; remove one of them")
    if endpoint is None and token_env is not None:
        raise ConfigError("--token-env has no effect without --endpoint; remove it")
    from files.owned import refuse_file, write_file

    numbers = out or predictions.with_suffix(".scores.json")
    picture = numbers.with_suffix(".png")
    for file in (numbers, picture):
        refuse_file(file, overwrite=overwrite)
    report = _report(predictions, data, endpoint, token_env, reward, frame, image_dir)
    from orchestrator.evaluation.predictions_report import plot_report, print_report

    print_report(report)
    about = {
        "predictions": str(predictions),
        "data": str(data),
        "scored_by": endpoint or ("published rules" if reward is None else str(reward)),
        "frame": frame.value,
    }
    text = json.dumps({"about": about, **report.model_dump(mode="json")}, indent=2) + "\n"
    write_file(numbers, text, overwrite=overwrite)
    write_file(picture, plot_report(report), overwrite=overwrite)
    typer.echo(f"numbers      {numbers}")
    typer.echo(f"picture      {picture}")


def _report(
    predictions: Path,
    data: Path,
    endpoint: str | None,
    token_env: str | None,
    reward: Path | None,
    frame: FrameKind,
    image_dir: str | None,
) -> EvaluationReport:
    rules = None if reward is None else load(ServiceConfig, reward).config.reward
    from orchestrator.evaluation.predictions import score_predictions, score_remotely

    if endpoint is not None:
        return score_remotely(predictions, data, endpoint, token_env=token_env, frame=frame.value, image_dir=image_dir)
    return score_predictions(predictions, data, reward=rules, frame=frame.value, image_dir=image_dir)
