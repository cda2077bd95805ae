"""The second form of pointvg eval: a prediction file in, a table, a JSON file and a plot out."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from orchestrator.score_predictions import (
    FrameName,
    PredictionError,
    score_predictions,
    score_remotely,
    write_json,
)
from orchestrator.scores_shown import plot_report, print_report
from schemas.config_file import load
from schemas.service import ServiceConfig


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

    Raises PredictionError, DatasetError or ConfigError for what the user can mend.
    """
    if frame not in get_args(FrameName):
        raise PredictionError(f"--frame {frame}: expected {' or '.join(get_args(FrameName))}")
    if endpoint is not None and reward is not None:
        raise PredictionError("--reward has no effect with --endpoint, which has rules of its own; remove one of them")
    if endpoint is None and token_env is not None:
        raise PredictionError("--token-env has no effect without --endpoint; remove it")
    kind = cast("FrameName", frame)
    if endpoint is not None:
        report = score_remotely(predictions, data, endpoint, token_env=token_env, frame=kind, image_dir=image_dir)
    else:
        options = None if reward is None else load(ServiceConfig, reward).config.reward
        report = score_predictions(predictions, data, reward=options, frame=kind, image_dir=image_dir)
    numbers = out or predictions.with_suffix(".scores.json")
    picture = numbers.with_suffix(".png")
    print_report(report)
    write_json(report, numbers, _about(predictions, data, endpoint, reward, frame))
    plot_report(report, picture)
    print(f"numbers      {numbers}")
    print(f"picture      {picture}")


def _about(predictions: Path, data: Path, endpoint: str | None, reward: Path | None, frame: str) -> dict[str, str]:
    rules = "published rules" if reward is None else str(reward)
    return {
        "predictions": str(predictions),
        "data": str(data),
        "scored_by": rules if endpoint is None else endpoint,
        "frame": frame,
    }
