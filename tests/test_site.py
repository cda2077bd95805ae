"""The site of the pages builds without a warning and loads nothing from the network; commands in pages exist.

What a command of a page does is tested where the command is; here each is read as a shell and the program would, and
settings that it gives are checked against the file that it names: they need models, photos or GPUs to be run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from orchestrator.cli.main import app
from orchestrator.cli.options import kind_of
from schemas.config.file import load, merge

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])


class Loaded(HTMLParser):
    """What a page has a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.addresses.append(given.get("href") or "")


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: run make setup-tools")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").glob("*.html"))
    assert {page.stem for page in pages} >= {page.stem for page in ROOT.glob("docs/*.md")}
    for page in pages:
        read = Loaded()
        read.feed(page.read_text(encoding="utf-8"))
        assert read.addresses
        assert [each for each in read.addresses if "//" in each] == [], page.name
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert "An answer for each photo, in order; quicker than one by one." in api


def test_the_site_leads_to_what_the_page_of_contents_names() -> None:
    named = re.findall(r"([\w-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert len(named) == len(set(named))
    assert all((ROOT / "docs" / name).is_file() for name in named)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every pointvg command between a page's fences, without what the shell takes for itself."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?(?:pointvg|python -m orchestrator) (.*)", line)
            if found and "$" not in line and "..." not in line:
                words = shlex.split(found[1], comments=True)
                ends = [words.index(sign) for sign in ("|", "&&", ">", "&") if sign in words]
                yield words[: min(ends, default=len(words))]


CALLS = [
    pytest.param(words, page.name == "extending.md", id=f"{page.relative_to(ROOT)}: {' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page)
]


def parsed(words: list[str]) -> Any:
    """What the program makes of a command's words, without running it: click's context. Raises its UsageError."""
    context: Any = typer.main.get_command(app).make_context("pointvg", list(words), resilient_parsing=False)
    while hasattr(context.command, "resolve_command"):
        rest: list[str] = [*context._protected_args, *context.args]  # what click itself goes on with
        name, command, rest = context.command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize(("words", "added"), CALLS)
def test_a_command_of_a_page_is_one_of_the_program(words: list[str], added: bool) -> None:
    given: dict[str, Any] = parsed(words).params
    file, overrides = given.get("config"), given.get("overrides")
    if added:  # docs/extending.md adds settings first; its own test runs them
        return
    if file is not None and (ROOT / file).is_file():
        load(kind_of(merge(ROOT / file, overrides or ())[0]), ROOT / file, overrides or ())


def test_commands_are_found() -> None:
    assert len(CALLS) > 25
    with pytest.raises(Exception, match="No such option: --confg"):
        parsed(["train", "--confg", "configs/grpo.yaml"])


def test_the_settings_of_pages_in_yaml_are_settings() -> None:
    """Sections that stand alone on a page of ours, in a file that lacks nothing else."""
    base: dict[str, Any] = yaml.safe_load((ROOT / "configs/quickstart.yaml").read_text(encoding="utf-8"))
    for name in ("reward", "choosing", "model"):
        text = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            section = yaml.safe_load(block)
            kind_of(base).model_validate(base | section)
