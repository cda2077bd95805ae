"""The page of data files: problems first, everything from the files escaped, and it filters in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.data_page import DataPage, data_page, data_sheet
from orchestrator.report.page import render
from pointing.curation.check import CheckOptions
from pointing.dataset import DatasetOptions
from tests.orchestrator.report.checked_page import CheckedPage
from tests.pointing.curation.defects import TRUTH, Album, row

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = '</script><script>alert(1)</script>"><img src=x onerror=alert(1)>'
# As a phone would show it: one choice after the other, and how many rows each leaves.
LOOK = """
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument;
  const count = () => [...page.querySelectorAll("article")].filter((each) => each.offsetParent !== null).length;
  const found = [page.documentElement.scrollWidth, count()];
  for (const [name, value] of [["pointing", "negative"], ["pointing", ""], ["problems", "yes"], ["split", "test"]]) {
    page.getElementById(name).value = value;
    page.getElementById(name).dispatchEvent(new Event("change"));
    found.push(count());
  }
  document.body.textContent = JSON.stringify(found);
});
"""


def page_of(folder: Path, limit: int = 100, **first: Any) -> DataPage:
    """Ten rows: one negative, two refused, one with a warning; the last three are of the split "test"."""
    album = Album(folder)
    rows = [row(album, split="train" if number < 7 else "test") for number in range(10)]
    rows[0] |= first
    rows[2]["ground_truth"] = "none"
    rows[4]["prompt"] = ""
    rows[5]["ground_truth"] = {**TRUTH, "obj_name": " "}
    rows[8]["images"] = ["lost.png"]
    (folder / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return data_page(CheckOptions(DatasetOptions(files=(str(folder / "a.jsonl"),))), "Data", limit)


def lines(page: DataPage) -> list[int]:
    return [int(card.place.rpartition(":")[2]) for card in page.cards]


def test_rows_with_problems_are_shown_whatever_the_limit(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert (page.rows, page.errors, page.warnings) == (10, 2, 1)
    assert lines(page) == list(range(1, 11))
    assert [card.pointing for card in page.cards].count("refused") == 2
    assert [card.pointing for card in page.cards].count("negative") == 1
    assert lines(page_of(tmp_path, limit=4)) == [1, 5, 6, 9]
    few = page_of(tmp_path, limit=2)
    assert lines(few) == [5, 6]
    assert few.notes == ("1 places with problems are not shown; pointvg data check lists all, and --limit shows more",)


def test_marks_are_those_of_the_ground_truth(tmp_path: Path) -> None:
    card = page_of(tmp_path).cards[0]
    assert card.marks.hand is not None
    assert (card.marks.hand.x, card.marks.hand.y, card.marks.hand.width, card.marks.hand.height) == (10, 30, 20, 16)
    assert card.marks.ray == ((28, 34), (60, 10))
    assert card.picture is not None
    assert (card.picture.width, card.picture.height) == (64, 48)


def test_the_page_is_whole_and_nothing_from_the_files_becomes_markup(tmp_path: Path) -> None:
    page = page_of(tmp_path, prompt=HOSTILE, ground_truth={**TRUTH, "obj_name": "<b>" + HOSTILE}, split=HOSTILE)
    checked = CheckedPage(render("data.html.jinja", page))
    assert checked.scripts == 1
    assert checked.outside == []
    assert checked.unnamed == []
    assert set(checked.references) <= set(checked.ids)
    assert HOSTILE in checked.text


def test_a_sheet_has_the_rows_with_images(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert data_sheet(page, cells=2).width == 2 * 448 + 3 * 8
    marked = data_sheet(page, cells=1)
    green = sum(count for count, colour in marked.getcolors(1 << 24) or [] if colour == (0, 150, 70))
    assert green > 500  # the boxes and the ray


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine; its package is called chromium in Debian")
def test_the_page_fits_a_phone_and_filters(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render("data.html.jinja", page_of(tmp_path)))
    frame = f'<iframe src="page.html" width="360" height="800"></iframe><script>{LOOK}</script>'
    (tmp_path / "phone.html").write_text(f"<!doctype html><body>{frame}</body>")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=10000", "--dump-dom", (tmp_path / "phone.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "CONSOLE" not in done.stderr
    found = re.search(r"<body>(\[.*\])</body>", done.stdout)
    assert found, done.stdout[-2000:]
    width, *counts = json.loads(html.unescape(found.group(1)))
    assert width <= 360
    assert counts == [10, 1, 10, 3, 1]
