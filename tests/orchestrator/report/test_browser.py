"""The page in a real browser, where one is installed: no errors, no request, it fits a phone, and it filters."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.page import write_report
from tests.orchestrator.report.made_run import made_run

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = 360  # CSS pixels
# Runs in a page that shows the report in a frame as wide as a phone, and writes what it finds in its place.
LOOK = """
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, inside = frame.contentWindow;
  const filter = page.getElementById("filter"), cases = () => [...page.querySelectorAll("[data-outcome]")];
  const shown = () => cases().filter((each) => each.offsetParent !== null).length;
  const all = shown();
  filter.value = filter.options[1].value;
  filter.dispatchEvent(new Event("change"));
  const images = [...page.querySelectorAll("svg.scene use")];
  const found = {
    width: page.documentElement.scrollWidth,
    all, chosen: shown(), expected: cases().filter((each) => each.dataset.outcome === filter.value).length,
    said: page.getElementById("shown").textContent,
    images: images.length, drawn: images.filter((each) => each.getBBox().width > 0).length,
    fetched: inside.performance.getEntriesByType("resource").filter((each) => !each.name.startsWith("data:")).length,
    ink: inside.getComputedStyle(page.body).color,
    nameless: [...page.querySelectorAll("a, select, summary, [tabindex]")].filter(
      (each) => !(each.textContent.trim() || each.getAttribute("aria-label"))).length,
  };
  document.body.textContent = JSON.stringify(found);
});
"""


def look(folder: Path, *options: str) -> dict[str, Any]:
    """What the browser finds in folder/report.html. Fails on anything that it writes to its console."""
    frame = f'<iframe src="report.html" width="{PHONE}" height="800"></iframe><script>{LOOK}</script>'
    (folder / "phone.html").write_text(f"<!doctype html><body>{frame}</body>")
    assert BROWSER is not None
    safe = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}")
    command = [BROWSER, "--headless", *safe, "--allow-file-access-from-files", "--enable-logging=stderr", *options]
    command += ["--virtual-time-budget=10000", "--dump-dom", (folder / "phone.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r"<body>(\{.*\})</body>", done.stdout)
    assert found, done.stdout[-2000:]
    return json.loads(html.unescape(found.group(1)))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine; its package is called chromium in Debian")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    folder, config = made_run(tmp_path, offs=(200, 30, 0))
    write_report(folder, config)
    found = look(folder.root)
    assert found["width"] <= PHONE, "nothing is wider than a phone"
    assert found["all"] == 6
    assert found["chosen"] == found["expected"] > 0
    assert found["said"] == f"{found['expected']} shown"
    assert found["images"] == found["drawn"] == 6 * 3 + 4 * 2 * 3
    assert found["fetched"] == 0
    assert found["nameless"] == 0
    dark = look(folder.root, "--blink-settings=preferredColorScheme=0")
    assert dark["ink"] != found["ink"]
