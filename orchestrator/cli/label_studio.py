"""pointvg data label-studio: photos become a Label Studio project, and its finished annotations a data file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Overwrite, example
from orchestrator.cli.progress import counted

label_studio_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Annotate photos in Label Studio.")

GUIDE = """# Annotating in Label Studio

Install and start it in a terminal of its own; photos stay where they are:

    python3 -m venv label-studio && label-studio/bin/pip install label-studio
    LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root} \\
        label-studio/bin/label-studio start

In the browser: create a project; Settings, Labeling Interface, Code: paste labels.xml. Settings, Cloud Storage, Add
Source Storage: Local files, with the absolute path {photos}; save, and do not sync. Then import tasks.json.

For each photo, correct what is proposed (hand, base and tip of the finger), draw the target's box, write its name, and
choose "confirmed", or remove all marks and choose "nobody points". A ray that is not marked runs from the tip to the
middle of the target. Export as JSON, then:

    pointvg data label-studio read EXPORT.json --out train.jsonl --images-root {photos}
"""


@label_studio_app.command(epilog=example("pointvg data label-studio init photos --out labelling"))
def init(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="folder of photos")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder to write the project into")],
    no_proposals: Annotated[bool, typer.Option("--no-proposals", help="without MediaPipe's hands")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a Label Studio project: labelling configuration, and tasks with proposed hands.

    Hands are proposed by MediaPipe, in an environment of its own that is made on first use. Each proposal is marked
    unconfirmed until a person has looked at it.
    """
    from files.owned import refuse_folder, writing_folder
    from orchestrator.hand_proposals import PACKAGE, environment, environment_folder, proposals
    from pointing.drawing import ImageError
    from pointing.formats.label_studio_project import LABELS, local_url, task_of
    from pointing.image_check import image_size

    refuse_folder(out, overwrite=overwrite)
    kinds = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
    files = sorted(file for file in photos.rglob("*") if file.suffix.lower() in kinds and file.is_file())
    if not photos.is_dir() or not files:
        raise ImageError(f"{photos}: no folder with {', '.join(kinds)} files; name the folder of the photos")
    sizes = [image_size(file) for file in files]
    found = (None for _ in files)
    if not no_proposals:
        found = proposals(environment(environment_folder(), typer.echo), [file.resolve() for file in files])
    tasks: list[dict[str, object]] = []
    with counted("photos", len(files)) as one_more:
        for file, size, proposal in zip(files, sizes, found, strict=True):
            name = file.relative_to(photos).as_posix()
            tasks.append(task_of(name, local_url(photos.resolve().name, name), size, proposal, PACKAGE))
            one_more()
    with writing_folder(out, "pointvg data label-studio init", overwrite=overwrite) as folder:
        (folder / "labels.xml").write_text(LABELS, encoding="utf-8")
        (folder / "tasks.json").write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        where = photos.resolve()
        (folder / "README.md").write_text(GUIDE.format(root=where.parent, photos=where), encoding="utf-8")
    proposed = sum("predictions" in task for task in tasks)
    typer.echo(f"tasks        {len(tasks)} photos, {proposed} with a proposed hand, unconfirmed")
    typer.echo(f"written      {out}; {out / 'README.md'} says how to open it")


@label_studio_app.command(
    epilog=example("pointvg data label-studio read export.json --out train.jsonl --images-root photos")
)
def read(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="Label Studio's export, as JSON")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="data file to write, .jsonl")],
    images_root: Annotated[
        Path | None, typer.Option("--images-root", metavar="DIR", help="the folder of photos; default: beside EXPORT")
    ] = None,
    skip: Annotated[bool, typer.Option("--skip", help="leave tasks out that are not finished")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Read finished annotations into a data file.

    Tasks that no person has confirmed, or that lack a part, are named, and nothing is written unless they are to be
    left out.
    """
    from files.owned import refuse_file, write_file
    from pointing.data_rows import DatasetError
    from pointing.formats.label_studio_project import read_confirmed
    from pointing.formats.published import write_published
    from schemas.row_problem import RowProblem

    if out.suffix != ".jsonl":
        raise typer.BadParameter(f"{out}: name a .jsonl file", param_hint="--out")
    refuse_file(out, overwrite=overwrite)
    root = images_root or export.parent
    lines, done, negatives = io.StringIO(), 0, 0
    problems: list[RowProblem] = []
    with counted("tasks", 0) as one_more:
        for each in read_confirmed(export, root):
            one_more()
            if isinstance(each, RowProblem):
                problems.append(each)
                continue
            write_published(each, lines, normalised=False)
            done += 1
            negatives += each.truth.negative
    if problems and not (skip and done):
        told = "\n".join(f"  {problem}" for problem in problems)
        raise DatasetError(f"{len(problems)} tasks are not finished; finish them, or leave them out (--skip):\n{told}")
    for problem in problems:
        typer.echo(f"left out     {problem}")
    if not done:
        raise DatasetError(f"{export}: holds no task")
    write_file(out, lines.getvalue(), overwrite=overwrite)
    typer.echo(f"written      {out}: {done} tasks, {negatives} of them negatives; data.image_dir={root}")
