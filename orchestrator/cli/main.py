"""The command line, as `pointvg` or `python -m orchestrator`: what each command is, and errors in a line.

Whatever takes long to import is imported within a command, once its settings are known to be right.
"""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.compare import compare
from orchestrator.cli.config import config_app
from orchestrator.cli.data import data_app
from orchestrator.cli.evaluate import evaluate
from orchestrator.cli.label_studio import label_studio_app
from orchestrator.cli.model import export, halve, tiny
from orchestrator.cli.options import example
from orchestrator.cli.predict import predict
from orchestrator.cli.refusals import RefusingGroup
from orchestrator.cli.report import report
from orchestrator.cli.scenes import scenes
from orchestrator.cli.score import score
from orchestrator.cli.serve import serve_app
from orchestrator.cli.train import check, sft, train
from orchestrator.cli.transcripts import transcripts
from orchestrator.cli.version import version

app = typer.Typer(
    cls=RefusingGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pointvg {version()}")
        raise typer.Exit


@app.callback(
    epilog=example("pointvg check --config configs/quickstart.yaml") + "\n\nDocumentation: README.md and docs/."
)
def pointvg(
    debug: Annotated[bool, typer.Option("--debug", help="print the whole traceback of an error")] = False,
    shown: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the version and end")
    ] = False,
) -> None:
    """Train multimodal LLMs to understand pointing.

    \b
    First  scenes, data, check
    Train  tiny, sft, train
    Then   eval, predict, score, report, compare, export, halve
    """


app.command(epilog=example("pointvg scenes data/scenes --train 2400 --validation 128 --test 512 --far"))(scenes)
app.command(epilog=example("pointvg check --config configs/grpo.yaml model.path=/models/Qwen2.5-VL-3B-Instruct"))(check)
app.command(epilog=example("pointvg tiny --config configs/tiny.yaml"))(tiny)
app.command(epilog=example("pointvg sft --config configs/sft.yaml data.train_files=train.jsonl"))(sft)
app.command(epilog=example("pointvg train --config configs/quickstart.yaml trainer.max_steps=20"))(train)
app.command("eval", epilog=example("pointvg eval --config configs/quickstart.yaml --model runs/quickstart/export"))(
    evaluate
)
app.command(epilog=example("pointvg predict photo.jpg --model runs/quickstart/export --pictures answers"))(predict)
app.command(epilog=example("pointvg score --predictions replies.jsonl --data test.jsonl"))(score)
app.command(epilog=example("pointvg report runs/quickstart"))(report)
app.command(epilog=example("pointvg compare runs/grpo runs/adaptive --out comparison.html"))(compare)
app.command(epilog=example("pointvg export --config configs/quickstart.yaml --out my-model"))(export)
app.command(epilog=example("pointvg halve runs/tiny-sft/export small"))(halve)
data_app.command(
    epilog=example(
        "pointvg data transcripts train.jsonl --out sft.jsonl --family qwen2.5-vl",
        "pointvg data transcripts --print-templates",
    )
)(transcripts)
data_app.add_typer(label_studio_app, name="label-studio")
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
app.add_typer(serve_app, name="serve", help="Run a service of the training stack on its own.")
