"""pointvg data ...: looks at data files, and makes others of them, before a model sees any."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Overwrite, example
from orchestrator.cli.progress import counted

if TYPE_CHECKING:
    from pointing.curation.finding import Finding
    from pointing.dataset import DatasetOptions

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check data files, and make others of them.")

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="JSONL, JSON or Parquet files, or folders of them")]
ImagesRoot = Annotated[
    str | None, typer.Option("--images-root", metavar="DIR", help="where the images are; default: beside each file")
]
PromptKey = Annotated[str, typer.Option("--prompt-key", metavar="NAME", help="column of the question")]
TruthKey = Annotated[str, typer.Option("--ground-truth-key", metavar="NAME", help="column of the ground truth")]
ImagesKey = Annotated[str, typer.Option("--images-key", metavar="NAME", help="column of the image or images")]
IdKey = Annotated[str, typer.Option("--id-key", metavar="NAME", help="column that names a row, where there is one")]
SplitKey = Annotated[
    str, typer.Option("--split-key", metavar="NAME", help="column of a row's split; without it a file is a split")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object a line, for other programs")]


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns are called."""

    prompt: str
    truth: str
    images: str


@contextmanager
def reading(
    files: Iterable[str], images_root: str | None, columns: Columns, damage: Callable[[Path], str] | None = None
) -> Generator[DatasetOptions]:
    """How the files are read. Images that they hold themselves lie in a folder that goes with the block."""
    from pointing.dataset import DatasetOptions

    with tempfile.TemporaryDirectory(prefix="pointvg-data-") as unpack_dir:
        yield DatasetOptions(
            files=tuple(files),
            prompt_key=columns.prompt,
            ground_truth_key=columns.truth,
            images_key=columns.images,
            image_dir=images_root,
            damage=damage,
            unpack_dir=unpack_dir,
        )


def row_count(files: Iterable[str]) -> int:
    """Rows of all files that are there, for the bar: what is wrong with the others is said later."""
    from pointing.data_rows import DatasetError, count_rows, task_files

    total = 0
    for name in files:
        try:
            total += sum(map(count_rows, task_files((name,))))
        except (DatasetError, OSError):
            continue
    return total


@data_app.command(
    epilog=example("pointvg data check data/scenes", "pointvg data check train.jsonl test.jsonl --images --json")
)
def check(
    files: Files,
    images_root: ImagesRoot = None,
    as_json: AsJson = False,
    images: Annotated[bool, typer.Option("--images", help="read every image to its end; takes longer")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="end with 1 for warnings too")] = False,
    prompt_key: PromptKey = "prompt",
    ground_truth_key: TruthKey = "ground_truth",
    images_key: ImagesKey = "images",
    id_key: IdKey = "id",
    split_key: SplitKey = "split",
) -> None:
    """Find every problem of data files: file, line, field, value and what to do.

    Refused rows, repeated and contradicting ones, images in two splits, rays that miss their target, damaged or turned
    images and more; see docs/data.md. Ends with 0 where there is no error and with 1 where there is one.
    """
    from pointing.curation.check import CheckOptions
    from pointing.curation.check import check as findings

    damage = None
    if images:
        from orchestrator.preflight.image_damage import image_damage as damage

    columns = Columns(prompt_key, ground_truth_key, images_key)
    tally = _Tally()
    with (
        reading(files, images_root, columns, damage) as data,
        counted("rows", row_count(files), err=as_json) as row_read,
    ):
        for found in findings(CheckOptions(data, id_key, split_key), lambda: tally.read(row_read)):
            tally.count(found)
            typer.echo(found.to_json() if as_json else str(found))
    typer.echo(f"checked      {tally}", err=as_json)
    if tally.errors or (strict and tally.warnings):
        raise typer.Exit(1)


class _Tally:
    """How many rows were read, and what was found."""

    def __init__(self) -> None:
        self.rows = self.errors = self.warnings = 0
        self._kinds: Counter[str] = Counter()

    def read(self, row_read: Callable[[], None]) -> None:
        self.rows += 1
        row_read()

    def count(self, found: Finding) -> None:
        self._kinds[found.kind] += 1
        if found.problem.severity == "error":
            self.errors += 1
        else:
            self.warnings += 1

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in self._kinds.most_common())
        return f"{self.rows} rows: {self.errors} errors, {self.warnings} warnings" + (f" ({kinds})" if kinds else "")


@data_app.command(
    epilog=example("pointvg data stats data/scenes --plots stats.png", "pointvg data stats train.jsonl --json")
)
def stats(
    files: Files,
    images_root: ImagesRoot = None,
    as_json: AsJson = False,
    plots: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a picture (.png) or a page (.html) to write as well")
    ] = None,
    prompt_key: PromptKey = "prompt",
    ground_truth_key: TruthKey = "ground_truth",
    images_key: ImagesKey = "images",
    overwrite: Overwrite = False,
) -> None:
    """Count what data files hold: images, negatives, sizes of targets, rays, names, questions.

    Rows that a run would refuse are counted and left aside.
    """
    from files.owned import refuse_file, write_file
    from orchestrator.preflight.data_table import data_json, data_table
    from pointing.curation.stats import statistics

    if plots is not None:
        if plots.suffix not in (".png", ".html"):
            raise typer.BadParameter(f"--plots {plots}: name a file that ends in .png or .html")
        refuse_file(plots, overwrite=overwrite)
    with (
        reading(files, images_root, Columns(prompt_key, ground_truth_key, images_key)) as data,
        counted("rows", row_count(files), err=as_json) as row_read,
    ):
        found = statistics(data, row_read)
    table = data_table(found)
    typer.echo(data_json(found) if as_json else table, nl=as_json)
    if plots is not None:
        from orchestrator.preflight.data_plots import data_plots

        write_file(plots, data_plots(found, plots, f"Data: {', '.join(files)}", table), overwrite=overwrite)
        typer.echo(f"plots        {plots}", err=as_json)


def _shares(text: str) -> dict[str, float]:
    """{"train": 0.8, "test": 0.2} of "train=.8 test=.2"."""
    shares: dict[str, float] = {}
    for word in text.replace(",", " ").split():
        name, _, number = word.partition("=")
        try:
            share = float(number)
        except ValueError:
            raise typer.BadParameter(f"--shares {word}: give NAME=SHARE, such as train=.8") from None
        if name in shares:
            raise typer.BadParameter(f"--shares {word}: {name} is given twice; name each side once")
        shares[name] = share
    return shares


@data_app.command(
    epilog=example(
        'pointvg data split all.jsonl --out split --shares "train=.8 validation=.1 test=.1"',
        "pointvg data split all.parquet --out split --by scene --seed 1",
    )
)
def split(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSONL, JSON or Parquet")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder to write a file of each side into")],
    shares: Annotated[
        str, typer.Option(metavar="NAME=SHARE...", help="of the rows, with commas or spaces between")
    ] = "train=.8,validation=.1,test=.1",
    by: Annotated[
        str, typer.Option(metavar="image|FIELD", help="rows with one value of FIELD, scene say, stay together too")
    ] = "image",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="another number gives another split")] = 0,
    images_root: ImagesRoot = None,
    prompt_key: PromptKey = "prompt",
    ground_truth_key: TruthKey = "ground_truth",
    images_key: ImagesKey = "images",
    overwrite: Overwrite = False,
) -> None:
    """Split a data file so that no image lies on two sides.

    Images are compared by their bytes. The same file, shares and seed give the same split. Rows are written as they
    are: where images lie beside FILE, name its folder as data.image_dir when you train.
    """
    from pointing.curation.split import SplitError, SplitOptions
    from pointing.curation.split import split as write_split

    if Path(file).is_dir():
        raise SplitError(f"{file}: is a folder; name one file")
    options = SplitOptions(_shares(shares), by, seed)
    with (
        reading([file], images_root, Columns(prompt_key, ground_truth_key, images_key)) as data,
        counted("rows", row_count([file])) as row_read,
    ):
        sides = write_split(data, options, out, overwrite=overwrite, row_read=row_read)
    shared = "an image" if by == "image" else f"an image or {by}"
    for side in sides:
        typer.echo(f"{side.name:<12} {side.rows} rows, {side.groups} groups of those that share {shared}")
    typer.echo(f"written      {out}; the images stay where they are: data.image_dir={images_root or Path(file).parent}")


@data_app.command(epilog=example("pointvg data view data/scenes --out scenes.html --sheet scenes.png"))
def view(
    files: Files,
    out: Annotated[Path, typer.Option(metavar="FILE", help="page to write, .html")],
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="picture of the first rows to write, .png")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=5000, metavar="N", help="rows to show, those with problems first")
    ] = 200,
    images_root: ImagesRoot = None,
    prompt_key: PromptKey = "prompt",
    ground_truth_key: TruthKey = "ground_truth",
    images_key: ImagesKey = "images",
    id_key: IdKey = "id",
    split_key: SplitKey = "split",
    overwrite: Overwrite = False,
) -> None:
    """Write a page to look at data files: images with hand, ray and target, and what is wrong with each row.

    The page holds its images, needs no network, and can be filtered by split, by who points, and by problems.
    """
    import io

    from files.owned import refuse_file, write_file

    for file, suffix in ((out, ".html"), (sheet, ".png")):
        if file is not None:
            if file.suffix != suffix:
                raise typer.BadParameter(f"{file}: name a file that ends in {suffix}")
            refuse_file(file, overwrite=overwrite)
    from orchestrator.report.data_page import data_page, data_sheet
    from orchestrator.report.page import render
    from pointing.curation.check import CheckOptions

    columns = Columns(prompt_key, ground_truth_key, images_key)
    with reading(files, images_root, columns) as data, counted("rows", 2 * row_count(files)) as row_read:
        options = CheckOptions(data, id_key, split_key)
        page = data_page(options, f"Data: {', '.join(files)}", limit, row_read)
        picture = io.BytesIO()
        if sheet is not None:
            try:
                data_sheet(page).save(picture, "PNG")
            except ValueError:
                raise typer.BadParameter(f"--sheet {sheet}: no image can be read; leave --sheet out") from None
    write_file(out, render("data.html.jinja", page), overwrite=overwrite)
    typer.echo(f"page         {out}: {len(page.cards)} of {page.rows} rows")
    if sheet is not None:
        write_file(sheet, picture.getvalue(), overwrite=overwrite)
        typer.echo(f"sheet        {sheet}")


class DataFormat(StrEnum):
    """Formats of data files; see docs/data.md."""

    published = "published"
    normalised = "normalised"
    coco = "coco"
    label_studio = "label-studio"
    yourefit = "yourefit"
    ti1k = "ti1k"


@data_app.command(
    epilog=example("pointvg data convert coco.json --from coco --to published --out train.jsonl --images-root photos")
)
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what to read")],
    source: Annotated[DataFormat, typer.Option("--from", help="format of FILE")],
    target: Annotated[DataFormat, typer.Option("--to", help="format to write; ti1k is read only")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="file to write")],
    images_root: ImagesRoot = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn data of other tools into what training reads, or back.

    Coordinates are pixels, but for "normalised": the published format in shares of the image's sides.
    """
    from pointing.formats.convert import convert as write_converted

    with counted("examples", 0) as example_read:
        made = write_converted(
            source.value,
            file,
            target.value,
            out,
            file.parent if images_root is None else Path(images_root),
            overwrite=overwrite,
            example_read=example_read,
        )
    lost = f"; {made.lost} have parts that {target.value} has no place for" if made.lost else ""
    typer.echo(f"written      {out}: {made.examples} examples{lost}")
