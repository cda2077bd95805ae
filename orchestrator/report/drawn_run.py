"""The charts of a run: its curves, where a step's time goes, and what went wrong in its validations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from orchestrator.evaluation.frames import frame_of
from orchestrator.evaluation.paired import MODES
from orchestrator.report.charts import (
    LineChart,
    NamedSeries,
    Parts,
    StackedChart,
    binned,
    line_chart,
    number,
    stacked_chart,
)
from orchestrator.report.run_record import Played, RunRecord
from orchestrator.telemetry.curves import BLUE, GREEN, GREY, ORANGE, PANELS, PURPLE
from pointing.failures import OUTCOMES, Outcome, counted, outcome_of

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY)  # a colour's place is its number in the style sheet
_STAGE = "time/"
_NO_STAGE = ("step", "other")


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage of a step: half of the steps spent less than `median` on it, and `share` of all time went to it.

    >>> StageRow("rollout", "2.5 s", "61 %").share
    '61 %'
    """

    name: str
    median: str
    share: str


def curves(run: RunRecord) -> list[LineChart]:
    """A chart for each panel of orchestrator.telemetry.curves that the run has numbers for."""
    charts: list[LineChart] = []
    for title, lines in PANELS:
        series = [
            NamedSeries(line.label, COLOURS.index(line.colour), *run.series[line.kind, line.key])
            for line in lines
            if (line.kind, line.key) in run.series
        ]
        if series:
            charts.append(line_chart(title, series))
    return charts


def stages(run: RunRecord) -> tuple[StackedChart, list[StageRow]] | None:
    """Seconds of each stage of the steps, and the stages in the order of their cost; None where none were logged."""
    whole = run.values(f"{_STAGE}step")
    if not whole:
        return None
    steps = run.series["train", f"{_STAGE}step"][0]
    by_stage = {
        key.removeprefix(_STAGE): dict(zip(*series, strict=True))
        for (kind, key), series in run.series.items()
        if kind == "train" and key.startswith(_STAGE) and key != f"{_STAGE}step"
    }
    names = sorted(by_stage, key=lambda name: (name in _NO_STAGE, -sum(by_stage[name].values())))
    rows = [[max(0.0, by_stage[name].get(step, 0.0)) for name in names] for step in steps]
    chart = stacked_chart("seconds of a step", "step", names, binned(steps, rows), unit="s")
    table = [
        StageRow(name, f"{median(column):.2f} s", f"{100 * sum(column) / sum(whole):.0f} %")
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    ]
    return chart, table


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """How many replies of each validation had an outcome."""

    name: str
    counts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """The outcomes of all validations of one kind of replies, as a chart of shares and as a table of counts."""

    mode: str
    chart: StackedChart
    steps: tuple[int, ...]
    rows: tuple[OutcomeRow, ...]


def outcome_counts(validations: Sequence[Played]) -> list[OutcomeCounts]:
    """What went wrong in the replies, sampled and greedy apart; [] without validations."""
    found: list[OutcomeCounts] = []
    for kind, mode in MODES.items():
        by_step: dict[int, tuple[int, ...]] = {}
        for played in validations:
            rows = [row for row in played.table.to_pylist() if row["kind"] == kind]
            if rows:
                ended: list[Outcome] = [outcome_of(row["reply"], row["ground_truth"], frame_of(row)) for row in rows]
                by_step[played.step] = tuple(counted(ended).values())
        if by_step:
            found.append(_counts(mode, by_step))
    return found


def _counts(mode: str, by_step: dict[int, tuple[int, ...]]) -> OutcomeCounts:
    """Drawn from the bottom: correct, then the latest failure first, so that what is nearly right stands beside it."""
    order = tuple(reversed(range(len(OUTCOMES))))
    bars = [
        Parts(f"{step}", tuple(100 * counts[place] / sum(counts) for place in order))
        for step, counts in by_step.items()
    ]
    legend = [OUTCOMES[place] for place in order]
    chart = stacked_chart(f"{mode} replies", "validation at step", legend, bars, unit="%", top=100.0)
    rows = tuple(
        OutcomeRow(OUTCOMES[place], tuple(number(counts[place]) for counts in by_step.values())) for place in order
    )
    return OutcomeCounts(mode, chart, tuple(by_step), rows)
