"""Runs side by side, by the last validation of each: the same tasks, so that each task is compared with itself.

RunRecord, RunRecord... --same tasks?--> by task --paired--> ComparisonPage --> terminal, compare.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from orchestrator.evaluation.paired import MODES, by_task
from orchestrator.report.cases import Why, by_task_id, choose, one_reply, rewards_of, rules_of
from orchestrator.report.charts import LineChart, NamedSeries, StackedChart, line_chart
from orchestrator.report.comparison import MetricChange, metric_changes
from orchestrator.report.drawn_run import counts_of, outcome_chart
from orchestrator.report.facts import ChangedSetting, Fact, changed_settings, plan_and_cost, what_was_run
from orchestrator.report.page import image_files, render
from orchestrator.report.pictures import MOST_BYTES, Picture, Pictures
from orchestrator.report.replies import ReplyView, TruthView, truth_view
from orchestrator.report.run_record import Played, RunRecord

MOST_TASKS = 16
COLOURS = 10  # of the style sheet
SHOWN = 3  # tasks named in a refusal
WATCHED = (("train", "reward/mean", "reward in training"), ("validation", "greedy/object_iou", "object mIoU, greedy"))


class CompareError(ValueError):
    """Runs that cannot be compared; the message names them, the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run: its name here, the steps before its last validation, and what it was."""

    name: str
    step: int
    facts: list[Fact]
    cost: list[Fact]


@dataclass(frozen=True, slots=True)
class DifferingSetting:
    """A setting and its value in each run."""

    field: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComparedTask:
    """A task with the reply of each run. `why` says why it is shown."""

    task: str
    why: str
    truth: TruthView
    picture: Picture | None
    replies: tuple[ReplyView, ...]


@dataclass(frozen=True, slots=True)
class ComparisonPage:
    """What the terminal and the template show. Changes are those from the first run."""

    runs: tuple[ComparedRun, ...]
    settings: list[DifferingSetting]
    changes: list[MetricChange]
    outcomes: list[StackedChart]
    curves: list[LineChart]
    tasks: list[ComparedTask]
    pictures: tuple[Picture, ...]
    notes: list[str]


def compare(runs: Sequence[RunRecord], most_bytes: int = MOST_BYTES) -> ComparisonPage:
    """Compares at least two runs with the first of them.

    Raises CompareError where a run has no validation, or where their last ones were not on the same tasks.
    """
    if len(runs) < 2:
        raise CompareError(f"compare takes two runs or more, given {len(runs)}")
    names, last = _names(runs), [_last(run) for run in runs]
    for run, played in zip(runs[1:], last[1:], strict=True):
        _refuse_other_tasks(runs[0], last[0], run, played)
    notes: list[str] = [note for run in runs for note in run.notes]
    pictures = Pictures(image_files(runs[0], notes), most_bytes)
    return ComparisonPage(
        tuple(
            ComparedRun(name, played.step, what_was_run(run), plan_and_cost(run))
            for name, run, played in zip(names, runs, last, strict=True)
        ),
        differing_settings(runs),
        metric_changes([by_task(played.table) for played in last]),
        _outcomes(names, last),
        _curves(names, runs),
        _tasks(names, runs, last, pictures),
        pictures.all,
        [*notes, *pictures.notes()],
    )


def _names(runs: Sequence[RunRecord]) -> list[str]:
    """The runs' names, or their folders where two have the same name."""
    names = [run.name for run in runs]
    return names if len({*names}) == len(names) else [str(run.folder.root) for run in runs]


def _last(run: RunRecord) -> Played:
    if not run.validations:
        raise CompareError(
            f"{run.folder.root}: has no validation to compare by; give it data.validation_files and validation.after, "
            "or wait for its first"
        )
    return run.validations[-1]


def _refuse_other_tasks(first: RunRecord, played: Played, other: RunRecord, others: Played) -> None:
    a, b = _truths(played), _truths(others)
    differing = sorted(task for task in a.keys() | b.keys() if a.get(task) != b.get(task))
    if differing:
        named = ", ".join(differing[:SHOWN]) + (f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else "")
        raise CompareError(
            f"{first.folder.root} and {other.folder.root} were not validated on the same tasks ({named}); compare runs "
            "with the same data.validation_files and validation.limit, or play both models on one file (pointvg eval)"
        )


def _truths(played: Played) -> Mapping[str, str]:
    columns = (played.table.column(name).to_pylist() for name in ("task_id", "ground_truth"))
    return {str(task): str(truth) for task, truth in zip(*columns, strict=True)}


def differing_settings(runs: Sequence[RunRecord]) -> list[DifferingSetting]:
    """Settings that are not the same in all runs, in the order of the first run that changed them."""
    changed: list[dict[str, ChangedSetting]] = [
        {found.field: found for found in changed_settings(run.config)} for run in runs
    ]
    defaults = {field: found.default for each in changed for field, found in each.items()}
    rows = (
        DifferingSetting(field, tuple(each[field].value if field in each else default for each in changed))
        for field, default in defaults.items()
    )
    return [row for row in rows if len({*row.values}) > 1]


def _outcomes(names: Sequence[str], last: Sequence[Played]) -> list[StackedChart]:
    """A chart for each kind of replies: a bar for each run, in shares."""
    found: list[StackedChart] = []
    for kind, mode in MODES.items():
        counts = [(name, counts_of(played, kind)) for name, played in zip(names, last, strict=True)]
        if any(any(each) for _, each in counts):
            found.append(outcome_chart(mode, "run", counts))
    return found


def _curves(names: Sequence[str], runs: Sequence[RunRecord]) -> list[LineChart]:
    charts: list[LineChart] = []
    for kind, key, title in WATCHED:
        series = [
            NamedSeries(name, place % COLOURS, *run.series[kind, key])
            for place, (name, run) in enumerate(zip(names, runs, strict=True))
            if (kind, key) in run.series
        ]
        if series:
            charts.append(line_chart(title, series))
    return charts


def _tasks(
    names: Sequence[str], runs: Sequence[RunRecord], last: Sequence[Played], pictures: Pictures
) -> list[ComparedTask]:
    """Those on which the last run is worst, and on which it differs most from the first."""
    rows = [by_task_id(played) for played in last]
    words: dict[Why, str] = {
        "worst": f"among the worst of {names[-1]}",
        "fallen": f"{names[-1]} falls farthest behind {names[0]}",
        "risen": f"{names[-1]} is farthest ahead of {names[0]}",
        "first": "one of the first",
    }
    return [
        ComparedTask(
            task,
            words[why],
            truth_view(rows[0][task][0]["ground_truth"]),
            pictures.of(task),
            tuple(
                one_reply(found[task], name, rules_of(run.config))
                for name, run, found in zip(names, runs, rows, strict=True)
            ),
        )
        for task, why in choose(rewards_of(last[0]), rewards_of(last[-1]), MOST_TASKS).items()
    ]


def comparison_html(page: ComparisonPage) -> str:
    """The page as HTML."""
    return render("compare.html.jinja", page)


def print_comparison(page: ComparisonPage, console: Console | None = None) -> None:
    """Each metric in each run, and the change from the first with its 95 % interval."""
    first, *others = page.runs
    table = Table("last validation", "", first.name, box=None)
    table.title = f"changes from {first.name}, task by task; a word follows a 95 % interval that does not hold 0"
    for run in others:
        table.add_column(run.name)
        table.add_column("change")
    for row in page.changes:
        cells = [row.values[0]]
        for value, change in zip(row.values[1:], row.changes, strict=True):
            clear = "" if change.verdict == "no clear change" else change.verdict
            cells += [value, f"{change.mean} ({change.interval}) {clear}".strip()]
        table.add_row(row.name, row.mode, *cells)
    (console or Console()).print(table)
