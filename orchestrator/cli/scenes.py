"""pointvg scenes: draws a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Overwrite
from orchestrator.cli.progress import counted

Count = Annotated[int, typer.Option(min=0, max=10_000_000, metavar="N")]


def scenes(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="folder to write")],
    train: Count = 2000,
    validation: Count = 128,
    test: Count = 512,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="another number draws other scenes")] = 1,
    far: Annotated[bool, typer.Option("--far", help="smaller objects, more of them, farther from the hand")] = False,
    negative: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="SHARE", help="scenes in which nobody points; default: 0.1")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw synthetic pointing scenes with exact ground truth.

    Writes train.jsonl, validation.jsonl and test.jsonl with their images as PNG. A folder that holds exactly these
    scenes already is left alone.
    """
    counts = {"train": train, "validation": validation, "test": test}
    if not any(counts.values()):
        raise typer.BadParameter("--train, --validation and --test are all 0: nothing to draw; ask for at least one")
    from pointing.scenes import FAR, SceneOptions, write_scenes

    options = FAR if far else SceneOptions()
    if negative is not None:
        options = replace(options, negative=negative)
    with counted("scenes", sum(counts.values())) as drawn:
        write_scenes(out, **counts, seed=seed, options=options, overwrite=overwrite, drawn=drawn)
    typer.echo(f"scenes       {out}: {train} for training, {validation} for validation, {test} for test")
