"""The report of a run: everything its folder tells, as one page of HTML.

RunRecord --> facts, changes, charts, outcomes, cases --> RunPage --template--> report.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from files.owned import ExistsError, write_file
from orchestrator.batch.tasks import files_of, read_dataset
from orchestrator.evaluation.paired import by_task
from orchestrator.report.cases import Case, cases, rules_of
from orchestrator.report.charts import LineChart, StackedChart
from orchestrator.report.comparison import MetricChange, metric_changes
from orchestrator.report.drawn_run import OutcomeCounts, StageRow, curves, outcome_counts, stages
from orchestrator.report.facts import ChangedSetting, Fact, changed_settings, last_numbers, plan_and_cost, what_was_run
from orchestrator.report.groups import GroupView, groups, training_images
from orchestrator.report.pictures import MOST_BYTES, Picture, Pictures
from orchestrator.report.run_record import AnyConfig, PastRecovery, RunRecord, read_run
from orchestrator.run_folder.folder import RunFolder
from pointing.dataset import DatasetError

REPORT = "report.html"
MADE_BY = '<meta name="generator" content="pointvg report">'
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class RunPage:
    """What the template shows of a run. Parts that the run has nothing for are empty."""

    name: str
    steps: int
    facts: list[Fact]
    settings: list[ChangedSetting]
    cost: list[Fact]
    first: int | None  # steps before the first and the last validation
    last: int | None
    changes: list[MetricChange]
    outcomes: list[OutcomeCounts]
    curves: list[LineChart]
    stage_chart: StackedChart | None
    stage_rows: list[StageRow]
    recoveries: tuple[PastRecovery, ...]
    cases: list[Case]
    groups: list[GroupView]
    pictures: tuple[Picture, ...]
    numbers: list[tuple[str, list[Fact]]]
    notes: list[str]


def write_report(folder: RunFolder, config: AnyConfig, out: Path | None = None, *, overwrite: bool = False) -> Path:
    """Writes the report of a run, to report.html in its folder unless `out` names another file; returns its path.

    An earlier report in the run's folder is replaced. Raises NoRunError where there is no run, and ExistsError where
    another file would be replaced.
    """
    file = out or folder.root / REPORT
    text = report(read_run(folder, config))
    if out is None and file.is_file() and not overwrite and MADE_BY not in _head(file):
        raise ExistsError(f"{file} was not written by pointvg report; move it away, or add --overwrite to replace it")
    write_file(file, text, overwrite=overwrite or out is None)
    return file


def report_at_end(folder: RunFolder, config: AnyConfig) -> None:
    """Writes the report of a run that has just ended, and says so where it cannot be written.

    The run has done what it was to do: nothing that goes wrong with a page may make it look as if it had not.
    """
    try:
        write_report(folder, config)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        print(f"warning      no report was written ({said}); pointvg report {folder.root} tries again", flush=True)


def _head(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(1000)


def report(run: RunRecord, most_bytes: int = MOST_BYTES) -> str:
    """The page of a run as HTML, with images of at most `most_bytes` together."""
    return render("report.html.jinja", run_page(run, most_bytes))


def run_page(run: RunRecord, most_bytes: int = MOST_BYTES) -> RunPage:
    """Everything that the page of a run shows."""
    notes = list(run.notes)
    pictures = Pictures({**training_images(run.rollouts), **image_files(run, notes)}, most_bytes)
    rules = rules_of(run.config)
    shown, played = cases(run.validations, rules, pictures), groups(run.rollouts, rules, pictures)
    ends = (run.validations[0], run.validations[-1])[: len(run.validations)] if run.validations else ()
    timed = stages(run)
    return RunPage(
        name=run.name,
        steps=run.steps,
        facts=what_was_run(run),
        settings=changed_settings(run.config),
        cost=plan_and_cost(run),
        first=ends[0].step if ends else None,
        last=ends[1].step if len(ends) > 1 else None,
        changes=metric_changes([by_task(played.table) for played in ends]) if ends else [],
        outcomes=outcome_counts(run.validations),
        curves=curves(run),
        stage_chart=timed[0] if timed else None,
        stage_rows=timed[1] if timed else [],
        recoveries=run.recoveries,
        cases=shown,
        groups=played,
        pictures=pictures.all,
        numbers=last_numbers(run),
        notes=[*notes, *pictures.notes()],
    )


def image_files(run: RunRecord, notes: list[str]) -> dict[str, str]:
    """Where the first image of each validation task lies. Prompts are not measured here: only a run does."""
    data = run.config.data.model_copy(update={"on_error": "skip"})
    files = files_of(data, "validation")
    if not run.validations or not files:
        return {}
    try:
        tasks = read_dataset(data, files, lambda task: 0).tasks
    except (DatasetError, OSError) as error:
        reason = str(error).splitlines()[0]
        notes.append(f"images are left out, since the data cannot be read from here: {reason}")
        return {}
    return {task.task_id: task.images[0] for task in tasks if task.images}


def render(template: str, page: object) -> str:
    """A template of this folder with `page`; everything in it is escaped, and a name it does not have raises."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(page=page)
