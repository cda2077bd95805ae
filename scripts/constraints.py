"""Prints exact versions of all that the project leads to: docker/constraints-*.txt, for set-up and the image.

    scripts/constraints.py cpu > docker/constraints-cpu.txt        # as installed in this environment
    scripts/constraints.py dev > docker/constraints-dev.txt        # the same, what the developers' tools add
    scripts/constraints.py docs > docker/constraints-docs.txt      # the same, what the pages and the notebook add
    scripts/constraints.py cpu OTHER.json ...                      # and what other Pythons need besides
    scripts/constraints.py gpu REPORT.json                         # as pip resolved it, on any machine

Commit what the whole test suite has passed with. OTHER.json and REPORT.json are reports of pip, made with

    pip install --dry-run --ignore-installed --report REPORT.json --constraint docker/constraints-cpu.txt '.[gpu]'

(for the GPU build without the CPU's lines that it contradicts). What set-up leaves out of a build has no line.
"""

from __future__ import annotations

import json
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import left_out
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Made by scripts/constraints.py. Local parts of versions (+cpu) are left out: the index decides which build it is.
"""


def closure(*extras: str) -> dict[str, str]:
    """Versions by name of everything installed that the project's dependencies and those of its extras lead to."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = whole["project"]
    lines = whole["build-system"]["requires"] + project["dependencies"]
    lines += [line for extra in extras for line in project["optional-dependencies"][extra]]
    waiting = [Requirement(line) for line in lines]
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
            except PackageNotFoundError:  # for another platform
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
    versions = {canonicalize_name(each["name"]): each["version"].partition("+")[0] for each in found}
    versions.pop("pointvg-r", None)
    return versions


def pins(name: str, reports: list[Path]) -> dict[str, str]:
    """The versions of one file. Where an installed version and a report's differ, the installed one stands."""
    reported = {package: version for report in reports for package, version in resolved(report).items()}
    if name == "gpu":
        found = reported
    elif name == "cpu":
        found = reported | closure("cpu")
    elif name == "docs":
        without_docs = closure("cpu", "dev").keys()
        found = {package: v for package, v in closure("cpu", "dev", "docs").items() if package not in without_docs}
    else:
        runtime = closure("cpu").keys()
        found = {package: v for package, v in (reported | closure("cpu", "dev")).items() if package not in runtime}
    build = "gpu" if name == "gpu" else "cpu"
    without = {package.name for package in left_out.of(build)}
    return {package: version for package, version in found.items() if package not in without}


def text(versions: dict[str, str]) -> str:
    """The file's content."""
    return HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def main() -> None:
    name, *reports = sys.argv[1:] or ["?"]
    if name not in ("cpu", "gpu", "dev", "docs") or (name == "gpu" and not reports):
        raise SystemExit(__doc__)
    print(text(pins(name, [Path(report) for report in reports])), end="")


if __name__ == "__main__":
    main()
