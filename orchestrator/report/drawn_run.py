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
_FROM_BELOW = tuple(reversed(range(len(OUTCOMES))))  # places in OUTCOMES


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
        counts = {played.step: counts_of(played, kind) for played in validations}
        by_step = {step: each for step, each in counts.items() if any(each)}
        if by_step:
            bars = [(str(step), each) for step, each in by_step.items()]
            rows = tuple(
                OutcomeRow(OUTCOMES[place], tuple(number(each[place]) for each in by_step.values()))
                for place in _FROM_BELOW
            )
            found.append(OutcomeCounts(mode, outcome_chart(mode, "validation at step", bars), tuple(by_step), rows))
    return found


def counts_of(played: Played, kind: str) -> tuple[int, ...]:
    """How many replies of a kind had each of OUTCOMES, in that order."""
    rows = [row for row in played.table.to_pylist() if row["kind"] == kind]
    ended: list[Outcome] = [outcome_of(row["reply"], row["ground_truth"], frame_of(row)) for row in rows]
    return tuple(counted(ended).values())


def outcome_chart(mode: str, x_label: str, counts: Sequence[tuple[str, tuple[int, ...]]]) -> StackedChart:
    """Shares of outcomes, a bar for each label; a bar without replies is empty.

    Drawn from the bottom: correct, then the latest failure first, so that what is nearly right stands beside it.
    """
    bars = [
        Parts(label, tuple(100 * each[place] / max(1, sum(each)) for place in _FROM_BELOW)) for label, each in counts
    ]
    legend = [OUTCOMES[place] for place in _FROM_BELOW]
    return stacked_chart(f"{mode} replies", x_label, legend, bars, unit="%", top=100.0)
