"""The command line: pointvg scenes | tiny | sft | train | eval | export; also `python -m orchestrator ...`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel

from schemas.config import SftConfig, TrainConfig
from schemas.config_file import ConfigError, load

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Config = Annotated[Path, typer.Option("--config", help="YAML file; see configs/")]
Overrides = Annotated[list[str] | None, typer.Argument(help="dotted overrides, such as trainer.max_steps=3")]
T = TypeVar("T", bound=BaseModel)


def _load(model: type[T], config: Path, overrides: list[str] | None) -> T:
    try:
        return load(model, config, overrides or ()).config
    except ConfigError as error:
        typer.echo(f"configuration refused:\n{error}", err=True)
        raise typer.Exit(2) from None


@contextmanager
def refusals() -> Generator[None]:
    """Turns what a user can mend into one message and exit code 2; anything else keeps its traceback."""
    from orchestrator.folder import RunExistsError
    from pointing.dataset import DatasetError

    try:
        yield
    except (ConfigError, DatasetError, RunExistsError, FileNotFoundError) as error:
        typer.echo(f"refused: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def scenes(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    train: int = 2000,
    validation: int = 128,
    test: int = 512,
    seed: int = 1,
) -> None:
    """Write synthetic pointing scenes with exact ground truth, as JSONL and PNG. A folder made alike is left alone."""
    from pointing.scenes import write_scenes

    write_scenes(out, train=train, validation=validation, test=test, seed=seed)
    typer.echo(f"{out}: {train} training, {validation} validation, {test} test scenes")


@app.command()
def sft(config: Config, overrides: Overrides = None) -> None:
    """Stage 1: supervised fine-tuning on transcripts."""
    chosen = _load(SftConfig, config, overrides)
    from orchestrator.sft import run_sft

    with refusals():
        folder = run_sft(chosen)
    typer.echo(f"model        {folder.export}")


@app.command()
def train(config: Config, overrides: Overrides = None) -> None:
    """Stage 2: reinforcement learning with the geometric reward."""
    chosen = _load(TrainConfig, config, overrides)
    from orchestrator.summary import print_outcome
    from orchestrator.training import run_training

    with refusals():
        outcome = run_training(chosen)
    print_outcome(outcome)


@app.command("eval")
def evaluate(
    config: Config,
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="checkpoint folder instead of model.path")] = None,
    split: Annotated[str, typer.Option(help="validation or test")] = "validation",
    out: Annotated[Path | None, typer.Option(help="write the numbers as JSON here")] = None,
) -> None:
    """Play held-out tasks with a model and print reward and metrics."""
    extra = [*(overrides or ()), *([f"model.path={model}"] if model else ())]
    chosen = _load(TrainConfig, config, extra)
    if split not in ("validation", "test"):
        typer.echo(f"--split {split}: expected validation or test", err=True)
        raise typer.Exit(2)
    from orchestrator.evaluate import write_report
    from orchestrator.summary import print_numbers
    from orchestrator.training import run_evaluation

    with refusals():
        result = run_evaluation(chosen, split)
    print_numbers(result.numbers)
    if out is not None:
        write_report(out, result.numbers)


@app.command()
def export(
    config: Config,
    out: Annotated[Path, typer.Option(help="folder to write")],
    overrides: Overrides = None,
    step: Annotated[int | None, typer.Option(help="which checkpoint; default: the best, else the last")] = None,
) -> None:
    """Write a run's checkpoint as a Hugging Face model folder."""
    chosen = _load(TrainConfig, config, overrides)
    from orchestrator.training import run_export

    with refusals():
        typer.echo(f"model        {run_export(chosen, out, step)}")
