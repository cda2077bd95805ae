"""pointvg data transcripts: what stage 1 has the model say, written from the ground truth in varied words."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.data import Columns, ImagesKey, ImagesRoot, PromptKey, TruthKey, reading, row_count
from orchestrator.cli.options import Overwrite
from orchestrator.cli.progress import counted
from schemas.config import Data

MIN_PIXELS, MAX_PIXELS = (Data.model_fields[name].default for name in ("min_pixels", "max_pixels"))


class FamilyName(StrEnum):
    """Model families, by the frame that they speak in."""

    qwen2_vl = "qwen2-vl"
    qwen2_5_vl = "qwen2.5-vl"
    qwen3_vl = "qwen3-vl"


def transcripts(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="JSONL, JSON or Parquet")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="file to write: .jsonl, or .parquet of one")] = None,
    family: Annotated[FamilyName, typer.Option(help="of the model, which decides how it writes coordinates")] = (
        FamilyName.qwen2_5_vl
    ),
    templates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file with wordings of your own; default: the shipped ones")
    ] = None,
    print_templates: Annotated[bool, typer.Option("--print-templates", help="print the wordings, and end")] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="another number draws other wordings")] = 0,
    min_pixels: Annotated[int, typer.Option(min=1, metavar="N", help="data.min_pixels of the run")] = MIN_PIXELS,
    max_pixels: Annotated[int, typer.Option(min=1, metavar="N", help="data.max_pixels of the run")] = MAX_PIXELS,
    skip: Annotated[bool, typer.Option("--skip", help="leave rows out that no transcript can be made of")] = False,
    images_root: ImagesRoot = None,
    prompt_key: PromptKey = "prompt",
    ground_truth_key: TruthKey = "ground_truth",
    images_key: ImagesKey = "images",
    transcript_key: Annotated[
        str, typer.Option("--transcript-key", metavar="NAME", help="column to write")
    ] = "transcript",
    overwrite: Overwrite = False,
) -> None:
    """Write transcripts for stage 1, in varied words, from the ground truth.

    Rows stay as they are and get a column more: what the model is to say, in its own coordinates, negatives included.
    Coordinates in pixels depend on how large the model sees an image, so give the run's pixel bounds. `pointvg sft`
    reads the column and checks it; for rows without it, transcripts are made in one wording.
    """
    from policy.conversation.wordings import SHIPPED, Writer, read_wordings

    if print_templates:
        typer.echo((templates or SHIPPED).read_text(encoding="utf-8"), nl=False)
        return
    given, target = _named(file, out)
    if min_pixels > max_pixels:
        raise typer.BadParameter(f"--min-pixels {min_pixels} is above --max-pixels {max_pixels}; change one of them")
    writer = Writer(read_wordings(templates or SHIPPED), seed)
    from orchestrator.write_transcripts import TranscriptOptions, write_transcripts
    from pointing.coordinates import FAMILIES

    options = TranscriptOptions(
        FAMILIES[family.name], min_pixels, max_pixels, transcript_key, "skip" if skip else "fail"
    )
    with (
        reading([given], images_root, Columns(prompt_key, ground_truth_key, images_key)) as data,
        counted("rows", row_count([given])) as row_read,
    ):
        made = write_transcripts(data, options, writer, target, overwrite=overwrite, row_read=row_read)
    for problem in made.problems:
        typer.echo(f"left out     {problem}")
    if made.left_out > len(made.problems):
        typer.echo(f"left out     {made.left_out - len(made.problems)} more rows")
    finger = f"; the finger of {made.from_ray} is that of the ray" if made.from_ray else ""
    typer.echo(f"transcripts  {made.positives} of positives, {made.negatives} of negatives{finger}")
    root = images_root or str(Path(given).parent)
    beside = "" if Path(root) == target.parent else f"; the images stay where they are: data.image_dir={root}"
    typer.echo(f"written      {target}{beside}")


def _named(file: str | None, out: Path | None) -> tuple[str, Path]:
    """FILE and --out, with suffixes that fit together."""
    if file is None:
        raise typer.BadParameter("name the data file", param_hint="FILE")
    if out is None:
        raise typer.BadParameter("name the file to write", param_hint="--out")
    if Path(file).is_dir():
        raise typer.BadParameter(f"{file} is a folder; name one file", param_hint="FILE")
    suffix = ".parquet" if Path(file).suffix == ".parquet" else ".jsonl"
    if out.suffix != suffix:
        raise typer.BadParameter(f"{out}: of {file} a {suffix} file is written; name one", param_hint="--out")
    return file, out
