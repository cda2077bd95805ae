"""The second form of pointvg eval: a prediction file in, a table, a JSON file and a plot out."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

import typer

from orchestrator.evaluation.predictions import (
    FrameName,
    PredictionError,
    score_predictions,
    score_remotely,
    write_json,
)
from orchestrator.evaluation.predictions_report import plot_report, print_report
from pointing.dataset import DatasetError
from schemas.config.file import ConfigError, load
from schemas.config.service import ServiceConfig
from schemas.evaluation import EvaluationReport
from services.http.retry import RewardServiceError
from services.reward.scoring import ScoringError


def score_file(
    predictions: Path,
    data: Path,
    endpoint: str | None = None,
    token_env: str | None = None,
    reward: Path | None = None,
    frame: str = "original",
    image_dir: str | None = None,
    out: Path | None = None,
) -> None:
    """Scores `predictions` here, or at `endpoint`; writes `out` (default: beside the predictions) and a PNG next to it.

    What the user can mend ends in one message and exit code 2.
    """
    try:
        report = _report(predictions, data, endpoint, token_env, reward, frame, image_dir)
    except (PredictionError, DatasetError, ConfigError, RewardServiceError, ScoringError) as error:
        typer.echo(f"refused: {error}", err=True)
        raise typer.Exit(2) from None
    numbers = out or predictions.with_suffix(".scores.json")
    picture = numbers.with_suffix(".png")
    print_report(report)
    write_json(report, numbers, _about(predictions, data, endpoint, reward, frame))
    plot_report(report, picture)
    print(f"numbers      {numbers}")
    print(f"picture      {picture}")


def _report(
    predictions: Path,
    data: Path,
    endpoint: str | None,
    token_env: str | None,
    reward: Path | None,
    frame: str,
    image_dir: str | None,
) -> EvaluationReport:
    if frame not in get_args(FrameName):
        raise PredictionError(f"--frame {frame}: expected {' or '.join(get_args(FrameName))}")
    if endpoint is not None and reward is not None:
        raise PredictionError("--reward has no effect with --endpoint, which has rules of its own; remove one of them")
    if endpoint is None and token_env is not None:
        raise PredictionError("--token-env has no effect without --endpoint; remove it")
    kind = cast("FrameName", frame)
    if endpoint is not None:
        return score_remotely(predictions, data, endpoint, token_env=token_env, frame=kind, image_dir=image_dir)
    options = None if reward is None else load(ServiceConfig, reward).config.reward
    return score_predictions(predictions, data, reward=options, frame=kind, image_dir=image_dir)


def _about(predictions: Path, data: Path, endpoint: str | None, reward: Path | None, frame: str) -> dict[str, str]:
    rules = "published rules" if reward is None else str(reward)
    return {
        "predictions": str(predictions),
        "data": str(data),
        "scored_by": rules if endpoint is None else endpoint,
        "frame": frame,
    }
