"""pointvg predict: asks a trained model about photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Overwrite
from orchestrator.cli.progress import counted
from orchestrator.pointer import prepare_process
from schemas.config.rollout import sampling_of

if TYPE_CHECKING:
    from orchestrator.evaluation.answers import Answer


def predict(
    files: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="photos, folders of them, or task files")],
    model: Annotated[str, typer.Option(metavar="DIR", help="an exported model: runs/NAME/export")],
    question: Annotated[
        str | None, typer.Option(metavar="TEXT", help="what to ask; default: as the model was trained")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="draws of each; more than 1 say how sure the model is")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write answers as JSON lines, which pointvg score reads")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="draw each answer over its photo, in a folder")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Ask a trained model what a hand points at.

    Plays the whole episode: the ray drawn, the second look. Prints a line for each photo. Boxes are left, top, right
    and bottom in pixels of the photo turned upright.
    """
    from files.owned import refuse_file, refuse_folder, write_file

    if out is not None:
        refuse_file(out, overwrite=overwrite)
    if pictures is not None:
        refuse_folder(pictures, overwrite=overwrite)
    from policy.conversation.spoken import read_spoken

    spoken = read_spoken(model)
    prepare_process()
    from orchestrator.predict_run import Oracle, read_asked

    asked = read_asked(files, spoken, question)
    oracle = Oracle(model, spoken, asked)
    found: list[Answer] = []
    with counted("photos", len(asked.tasks)) as one_more:
        for answer in oracle.answers(asked, samples, sampling_of(samples)):
            found.append(answer)
            typer.echo(answer.line())
            one_more()
    if out is not None:
        write_file(out, "".join(f"{answer.model_dump_json()}\n" for answer in found), overwrite=overwrite)
        typer.echo(f"answers      {out}")
    if pictures is not None:
        from orchestrator.evaluation.answer_pictures import draw_answers

        draw_answers(found, asked.tasks, pictures, "pointvg predict", overwrite=overwrite)
        typer.echo(f"pictures     {pictures}")
