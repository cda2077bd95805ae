"""What contributors are told is true: hooks, workflow and pages name commands and versions that are there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob(".github/**/*.md")]
)
PYTHONS = ["3.11", "3.12", "3.13"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def targets() -> set[str]:
    """The targets of the Makefile that `make help` lists."""
    return set(re.findall(r"^([a-z-]+):.*##", read("Makefile"), re.MULTILINE))


def commands_of(target: str) -> list[str]:
    """What make would run for a target in an environment that is set up."""
    here = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
    made = [".venv/.setup-done", ".venv/.setup-tools-done"]
    asked = ["make", "--dry-run", *(f"--old-file={each}" for each in made), target]
    done = subprocess.run(asked, cwd=ROOT, env=here, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def hooks() -> list[dict[str, object]]:
    (local,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert local["repo"] == "local"  # the environment's own tools, in the versions of the constraints
    return local["hooks"]


def spans(page: Path) -> list[str]:
    """Code in a page: in the line, between fences, indented."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return fenced + re.findall(r"`([^`]+)`", rest) + re.findall(r"^ {4}\s*(\S.*)$", rest, re.MULTILINE)


def test_the_hooks_run_what_make_lint_runs() -> None:
    assert [hook["entry"] for hook in hooks()] == commands_of("lint")


def test_make_test_begins_with_make_lint() -> None:
    lint = commands_of("lint")
    for target in ("test", "test-all"):
        assert commands_of(target)[: len(lint)] == lint
        assert all("pytest" in command for command in commands_of(target)[len(lint) :])


def test_a_commit_with_a_fault_of_style_is_stopped(tmp_path: Path) -> None:
    """The hook itself, by pre-commit, in a repository of one file."""
    tool = ROOT / ".venv" / "bin" / "pre-commit"
    if not tool.exists():
        pytest.skip("pre-commit is not installed: run make setup-tools")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / ".gitignore").write_text(".venv\n")
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    here = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    here |= {"PRE_COMMIT_HOME": str(tmp_path / ".cache"), "GIT_CONFIG_GLOBAL": os.devnull}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, check=False)

    def commit() -> subprocess.CompletedProcess[str]:
        return run("git", "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--all", "--message=m")

    assert run("git", "init").returncode == 0
    assert run(str(tool), "install").returncode == 0
    assert {file.name for file in (tmp_path / ".git" / "hooks").glob("pre-*[!e]")} == {"pre-commit", "pre-push"}
    (tmp_path / "one.py").write_text("import os\nx = {'a':1}\n")
    run("git", "add", ".")
    stopped = commit()
    assert stopped.returncode != 0
    assert "F401" in stopped.stderr + stopped.stdout
    assert "would be reformatted" in stopped.stderr + stopped.stdout
    (tmp_path / "one.py").write_text('x = {"a": 1}\n')
    done = commit()
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_calls_targets_that_are_there_with_every_python() -> None:
    workflow = yaml.safe_load(read(".github/workflows/test.yml"))
    (job,) = workflow["jobs"].values()
    called = [step["run"] for step in job["steps"] if "run" in step]
    assert called
    for command in called:
        assert re.fullmatch(r"make ([a-z-]+) PYTHON=python", command), command
        assert command.split()[1] in targets()
    assert "make test PYTHON=python" in called
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    (python,) = [step for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert python["with"]["cache"] == "pip"
    for pattern in python["with"]["cache-dependency-path"].split():
        assert list(ROOT.glob(pattern)), pattern


def test_the_project_says_with_which_pythons_it_works() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    named = [
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python :: 3.")
    ]
    assert named == PYTHONS


def test_the_versions_agree() -> None:
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\S+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert released[0][0] == PROJECT["version"]
    days = [date.fromisoformat(day) for _, day in released]
    assert days == sorted(days, reverse=True)
    assert f"version: {PROJECT['version']}\n" in read("CITATION.cff")
    assert read("CHANGELOG.md").index("## [Unreleased]") < read("CHANGELOG.md").index(f"## [{PROJECT['version']}]")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_target_that_a_page_names_is_there(page: Path) -> None:
    named = {name for span in spans(page) for name in re.findall(r"(?:^|[`\s;&])make ([a-z][a-z-]*)", span)}
    assert named <= targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_links_to_is_there(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose):
        assert (page.parent / link).exists(), link


def test_the_issue_forms_have_what_a_form_needs() -> None:
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        form = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= form.keys(), file.name
        ids = [part["id"] for part in form["body"]]
        assert len(set(ids)) == len(ids)


def test_make_help_lists_every_target_that_is_no_file() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert set(phony.split()) - {"right-python"} == targets()
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in shown.splitlines() if line.startswith("  make ")} == targets()
