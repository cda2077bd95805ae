"""Which version this is, from the source it runs from, or from the installed package."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

PROJECT = "pointvg-r"
_SOURCE = Path(__file__).parents[2] / "pyproject.toml"


def version() -> str:
    """Such as "0.1.0"; "unknown" where neither source nor package says."""
    try:
        project = tomllib.loads(_SOURCE.read_text(encoding="utf-8"))["project"]
        if project["name"] == PROJECT:
            return str(project["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        pass
    try:
        return installed(PROJECT)
    except PackageNotFoundError:
        return "unknown"
