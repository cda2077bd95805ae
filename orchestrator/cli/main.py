"""The command line: pointvg scenes, tiny, sft, train, check, eval, export, serve, config; or python -m orchestrator."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel

from orchestrator.cli.config import config_app
from orchestrator.cli.serve import serve_app
from schemas.config import SftConfig, TinyConfig, TrainConfig
from schemas.config.file import ConfigError, Loaded, load

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

app.add_typer(config_app, name="config")
app.add_typer(serve_app, name="serve")

Config = Annotated[Path, typer.Option("--config", help="YAML file; see configs/")]
Overrides = Annotated[list[str] | None, typer.Argument(help="dotted overrides, such as trainer.max_steps=3")]
T = TypeVar("T", bound=BaseModel)


def _load(model: type[T], config: Path, overrides: list[str] | None) -> T:
    return _loaded(model, config, overrides).config


def _loaded(model: type[T], config: Path, overrides: list[str] | None) -> Loaded[T]:
    try:
        return load(model, config, overrides or ())
    except ConfigError as error:
        typer.echo(f"configuration refused:\n{error}", err=True)
        raise typer.Exit(2) from None


@contextmanager
def refusals() -> Generator[None]:
    """Turns what a user can mend into one message and exit code 2; anything else keeps its traceback.

    A run that a signal ended exits with 128 + its number; one that could not write a checkpoint with 3.
    """
    from orchestrator.recovery.stop import Stopped
    from orchestrator.run_folder.folder import RunExistsError
    from pointing.dataset import DatasetError
    from policy.state.checkpoint import CheckpointError

    try:
        yield
    except (ConfigError, DatasetError, RunExistsError, FileNotFoundError) as error:
        typer.echo(f"refused: {error}", err=True)
        raise typer.Exit(2) from None
    except CheckpointError as error:
        typer.echo(f"checkpoint: {error}", err=True)
        raise typer.Exit(3) from None
    except Stopped as stopped:
        typer.echo(str(stopped), err=True)
        raise typer.Exit(stopped.exit_code) from None


@app.command()
def scenes(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    train: int = 2000,
    validation: int = 128,
    test: int = 512,
    seed: int = 1,
    far: Annotated[bool, typer.Option("--far", help="smaller objects, more of them, farther from the hand")] = False,
) -> None:
    """Write synthetic pointing scenes with exact ground truth, as JSONL and PNG. A folder made alike is left alone."""
    from pointing.scenes import FAR, SceneOptions, write_scenes

    write_scenes(out, train=train, validation=validation, test=test, seed=seed, options=FAR if far else SceneOptions())
    typer.echo(f"{out}: {train} training, {validation} validation, {test} test scenes")


@app.command()
def tiny(config: Config, overrides: Overrides = None) -> None:
    """Make the small model with its tokenizer and ground its vision on synthetic scenes."""
    chosen = _load(TinyConfig, config, overrides)
    from orchestrator.cli.tiny import run_tiny

    with refusals():
        typer.echo(f"model        {run_tiny(chosen).export}")


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
    from orchestrator.cli.summary import print_outcome
    from orchestrator.train_run import run_training

    with refusals():
        outcome = run_training(chosen)
    print_outcome(outcome)


@app.command()
def check(
    config: Config,
    overrides: Overrides = None,
    every: Annotated[bool, typer.Option("--all", help="read every row, not the first of each file")] = False,
) -> None:
    """Find everything that would stop a run: settings, model, data, reward, machines, disk. Starts nothing."""
    from orchestrator.cli.config import kind_of
    from orchestrator.preflight.check import check as preflight
    from schemas.config.file import merge

    with refusals():
        kind = kind_of(merge(config, overrides or ())[0])
        if kind is not SftConfig and kind is not TrainConfig:
            raise ConfigError(f"{config}: a configuration of {kind.__name__}; check reads those of train and sft")
        loaded = _loaded(kind, config, overrides)
        report = preflight(loaded.config, origins=loaded.origins, every_row=every, starts_here=False)
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


@app.command()
def halve(
    model: Annotated[Path, typer.Argument(help="checkpoint folder")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
) -> None:
    """Copy a model folder with its weights in float16, as the shipped small model is."""
    from policy.state.export import halve as write_half

    with refusals():
        write_half(model, out)
    typer.echo(f"model        {out}")


@app.command("eval")
def evaluate(
    config: Annotated[Path | None, typer.Option(help="play tasks: YAML file; see configs/")] = None,
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="checkpoint folder instead of model.path")] = None,
    split: Annotated[str, typer.Option(help="validation or test")] = "validation",
    predictions: Annotated[Path | None, typer.Option(help="score a file: replies of any model, a row each")] = None,
    data: Annotated[Path | None, typer.Option(help="the task file that the predictions answer")] = None,
    endpoint: Annotated[str | None, typer.Option(help="a reward service that scores them; default: here")] = None,
    token_env: Annotated[str | None, typer.Option(help="environment variable with the endpoint's token")] = None,
    reward: Annotated[Path | None, typer.Option(help="YAML file with a `reward` section; default: published")] = None,
    frame: Annotated[str, typer.Option(help="of the predictions: original (pixels) or thousandths")] = "original",
    image_dir: Annotated[str | None, typer.Option(help="folder of the images; default: that of --data")] = None,
    out: Annotated[Path | None, typer.Option(help="write the numbers as JSON here")] = None,
) -> None:
    """Play held-out tasks with a model (--config), or score the replies of any model (--predictions and --data)."""
    if predictions is not None or data is not None:
        from orchestrator.cli.score import score_file

        if config is not None or model is not None or overrides or predictions is None or data is None:
            typer.echo("give either --config, or both --predictions and --data", err=True)
            raise typer.Exit(2)
        score_file(predictions, data, endpoint, token_env, reward, frame, image_dir, out)
        return
    if config is None:
        typer.echo("give either --config, or both --predictions and --data", err=True)
        raise typer.Exit(2)
    extra = [*(overrides or ()), *([f"model.path={model}"] if model else ())]
    chosen = _load(TrainConfig, config, extra)
    if split not in ("validation", "test"):
        typer.echo(f"--split {split}: expected validation or test", err=True)
        raise typer.Exit(2)
    from orchestrator.cli.summary import print_numbers
    from orchestrator.evaluation.evaluate import write_report
    from orchestrator.train_run import run_evaluation

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
    from orchestrator.train_run import run_export

    with refusals():
        typer.echo(f"model        {run_export(chosen, out, step)}")
