"""Prints exact versions of all that the project leads to, for docker/constraints-*.txt, which the image is built with.

scripts/constraints.py > docker/constraints-cpu.txt                  # as installed in this environment
pip install --dry-run --report report.json '.[gpu]'                  # on a machine that may install it
scripts/constraints.py report.json > docker/constraints-gpu.txt      # as pip resolved it
"""

from __future__ import annotations

import json
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Made by scripts/constraints.py. Local parts of versions (+cpu) are left out: the index decides which build it is.
"""


def closure(build: str) -> dict[str, str]:
    """Versions by name of everything that the project's dependencies and those of an extra lead to."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"][build]]
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                installed = distribution(name)
            except PackageNotFoundError:  # removed by set-up, or for another platform
                continue
            found[name] = installed.version.partition("+")[0]
            for line in installed.requires or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return found


def resolved(report: Path) -> dict[str, str]:
    """Versions by name in a report of pip."""
    found = [each["metadata"] for each in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return {canonicalize_name(each["name"]): each["version"].partition("+")[0] for each in found}


def text(versions: dict[str, str]) -> str:
    """The file's content."""
    return HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


if __name__ == "__main__":
    print(text(resolved(Path(sys.argv[1])) if sys.argv[1:] else closure("cpu")), end="")
