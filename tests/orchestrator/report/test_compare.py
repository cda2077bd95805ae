"""Runs side by side: differences worked by hand, other tasks refused, a page as sound as a report's."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.report.compare import CompareError, compare, comparison_html, differing_settings, print_comparison
from orchestrator.report.run_record import RunRecord, read_run
from tests.orchestrator.report.checked_page import CheckedPage
from tests.orchestrator.report.made_run import made_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[RunRecord]:
    """The first ends with targets 40 pixels off, the second with right ones, the third with those of the first."""
    learner = {"optimiser": {"lr": 3e-4}}
    made = [
        made_run(folder, "base", offs=(40, 40)),
        made_run(folder, "better", offs=(40, 0), learner=learner, algorithm={"adaptive": {}}),
        made_run(folder, "same", offs=(0, 40)),
    ]
    return [read_run(*each) for each in made]


def test_the_last_validations_are_compared_with_the_first_run(runs: list[RunRecord]) -> None:
    page = compare(runs)
    assert [(run.name, run.step) for run in page.runs] == [("base", 4), ("better", 4), ("same", 4)]
    rows = {(row.name, row.mode): row for row in page.changes}
    row = rows["object mIoU", "greedy"]
    assert float(row.values[0]) < 0.8 < 0.98 < float(row.values[1])
    assert row.values[0] == row.values[2]
    assert float(row.changes[0].mean) == pytest.approx(float(row.values[1]) - float(row.values[0]), abs=0.0011)
    assert [change.verdict for change in row.changes] == ["better", "no clear change"]
    assert row.changes[1].mean == "+0.000"
    assert [len(task.replies) for task in page.tasks] == [3] * 6
    assert page.notes == []


def test_only_what_differs_is_listed_of_the_settings(runs: list[RunRecord]) -> None:
    found = {row.field: row.values for row in differing_settings(runs)}
    assert found == {
        "learner.optimiser.lr": ("0.0001", "0.0003", "0.0001"),
        "algorithm.adaptive": ("null", "given", "null"),
    }


def test_the_page_is_well_formed_and_needs_nothing_else(runs: list[RunRecord]) -> None:
    seen = CheckedPage(comparison_html(compare(runs)))
    assert seen.outside == []
    assert set(seen.references) <= set(seen.ids)
    assert len(set(seen.ids)) == len(seen.ids)
    assert seen.unnamed == []
    assert seen.scripts == 0
    assert "base against better against same" in seen.text


def test_the_terminal_has_the_changes(runs: list[RunRecord]) -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    print_comparison(compare(runs[:2]), console)
    lines = [line.split() for line in console.export_text().splitlines() if "object mIoU" in line]
    assert len(lines) == 2
    assert all(line[-1] == "better" for line in lines)


def test_runs_of_other_tasks_are_refused_with_the_remedy(folder: Path, runs: list[RunRecord]) -> None:
    other = read_run(*made_run(folder / "elsewhere", "other", offs=(0,), seed=6))
    with pytest.raises(CompareError, match=r"not validated on the same tasks \(validation-0, .* and 3 more\); compare"):
        compare([runs[0], other])
    fewer = read_run(*made_run(folder, "fewer", offs=(0,), tasks=5))
    with pytest.raises(CompareError, match=r"\(validation-5\); compare runs with the same data.validation_files"):
        compare([runs[0], fewer])


def test_a_run_without_a_validation_is_refused(folder: Path, runs: list[RunRecord]) -> None:
    none = read_run(*made_run(folder, "none", offs=()))
    with pytest.raises(CompareError, match="none: has no validation to compare by; give it"):
        compare([runs[0], none])
    with pytest.raises(CompareError, match="two runs or more, given 1"):
        compare(runs[:1])


def test_runs_of_one_name_are_told_apart_by_their_folders(folder: Path, runs: list[RunRecord]) -> None:
    twin = read_run(*made_run(folder / "twins", "base", offs=(0,)))
    assert [run.name for run in compare([runs[0], twin]).runs] == [str(folder / "base"), str(folder / "twins" / "base")]


def test_the_command_writes_the_page_and_no_other_file(folder: Path, runs: list[RunRecord], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    words = ["compare", *(str(run.folder.root) for run in runs[:2]), "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"page         {out}" in done.output
    CheckedPage(out.read_text())
    out.write_text("mine")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "add --overwrite to replace it" in done.output
    assert out.read_text() == "mine"


def test_the_command_of_a_report_writes_it_where_it_is_told(runs: list[RunRecord], tmp_path: Path) -> None:
    root = runs[0].folder.root
    assert CliRunner().invoke(app, ["report", str(root)]).exit_code == 0
    assert CliRunner().invoke(app, ["report", str(root), "--out", str(tmp_path / "r.html")]).exit_code == 0
    assert (root / "report.html").read_bytes() == (tmp_path / "r.html").read_bytes()
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert f"refused: {tmp_path}: holds no config.yaml; name the folder of a run" in done.output
