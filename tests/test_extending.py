"""Every example of docs/extending.md, applied to a copy of the code and run there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "files",
    "schemas",
    "pointing",
    "algorithms",
    "policy",
    "actors",
    "services",
    "orchestrator",
)
SHARED = "tests/policy"  # batches that examples share with the tests
STARTS_RAY = "A role"
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


@pytest.mark.parametrize(
    "title", [pytest.param(t, marks=[pytest.mark.cluster] if t == STARTS_RAY else []) for t in SECTIONS]
)
def test_the_example_works(title: str, tmp_path: Path) -> None:
    [change] = re.findall(r"```diff\n(.*?)```", SECTIONS[title], re.S)
    [test] = re.findall(r"```python test\n(.*?)```", SECTIONS[title], re.S)
    touched = re.findall(r"^\+\+\+ b/(\S+)$", change, re.M)
    assert len(touched) <= 2
    for package in (*PACKAGES, SHARED):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    # Git would look for a repository above, and apply nothing outside of it.
    applied = subprocess.run(
        ["git", "apply", "-C1", "-"],
        input=change,
        cwd=tmp_path,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert applied.returncode == 0, applied.stderr
    (tmp_path / "test_example.py").write_text(test)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-W",
            "ignore::DeprecationWarning",
            "-p",
            "no:cacheprovider",
            "test_example.py",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
