"""The layers hold: imports point down only, and each heavy library has its few places."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A package may import packages strictly below it; equals of one level may not import each other.
LEVEL = {
    "files": 0,  # the standard library alone
    "schemas": 0,
    "pointing": 1,
    "algorithms": 1,
    "migration": 1,  # of configurations alone
    "policy": 2,
    "actors": 3,
    "services": 4,
    "orchestrator": 5,
    "examples": 6,  # use the rest as anybody would
}
# Rooms of a package, lowest first: a room may import those before it. "" is the files that stand in no room.
ROOMS = {
    "pointing": (
        "",  # one act of pointing, one row of data
        "curation",  # whole data files
        "formats",  # of other tools
    ),
    "policy": (
        "conversation",  # ids: needs no network
        "network",  # ids to log-probabilities
        "state",  # where weights lie and how they are kept
        "learning",  # all of it, to optimiser steps
        "tiny",  # one small model, made with the rest
    ),
    "services": (
        "http",  # what every service shares
        "reward",
        "pointer",
    ),
    "orchestrator": (
        "run_folder",  # files alone: no actors
        "telemetry",
        "recovery",  # what a role does when a part of it dies
        "roles",
        "evaluation",  # plays on roles
        "batch",  # from played groups to what is learned
        "report",  # all that the rooms before it left behind, as a page
        "preflight",  # reads data as a run would, looks at the cluster
        "",  # the loop and what runs it
        "cli",
    ),
}
ALLOWED = {
    "ray": {"actors", "services", "orchestrator"},
    "fastapi": {"services"},
    "starlette": {"services"},
    "torch": {"algorithms", "policy", "actors", "orchestrator"},
    "transformers": {"policy"},
    "peft": {"policy"},
    "yaml": {"schemas"},
}


def imports(file: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


FILES = sorted(file for package in LEVEL for file in (ROOT / package).glob("**/*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_down(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    used = imports(file)
    upward = {name for name in used & LEVEL.keys() if name != package and LEVEL[name] >= LEVEL[package]}
    assert not upward, f"{file} imports {upward} from its own level or above"
    for library, places in ALLOWED.items():
        if library in used:
            assert package in places, f"{file} imports {library}, which belongs to {sorted(places)}"


def room_of(name: str) -> str:
    """The room of a dotted module name, "" for a file that stands in none."""
    package, *rest = name.split(".")
    return rest[0] if rest and (ROOT / package / rest[0]).is_dir() else ""


def rooms_imported(file: Path, package: str) -> set[str]:
    """Rooms of its own package that a file imports from."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    named |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {room_of(name) for name in named if name.split(".")[0] == package}


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_rooms_below(package: str) -> None:
    order = ROOMS[package]
    assert {f.parent.name for f in (ROOT / package).glob("*/*.py")} | {""} == {*order, ""}
    for file in (ROOT / package).glob("**/*.py"):
        room = file.relative_to(ROOT / package).parts[0] if file.parent != ROOT / package else ""
        if room == "" and "" not in order:
            order = (*order, "")
        if file.name == "__main__.py":  # is the command line
            continue
        above = {other for other in rooms_imported(file, package) if order.index(other) > order.index(room)}
        assert not above, f"{file} imports from {sorted(above)}, which stand above {room or 'it'}"


def test_vllm_is_imported_by_the_engine_and_its_gpu_transfer_only() -> None:
    users = [str(f.relative_to(ROOT)) for f in FILES if "vllm" in imports(f)]
    assert users == ["actors/nccl.py", "actors/vllm_engine.py"]


def test_the_check_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text("def f():\n    import ray.data\n    from torch import nn\n")
    assert imports(file) == {"ray", "torch"}


def test_a_public_class_name_means_one_thing() -> None:
    where: dict[str, list[str]] = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in where.items() if len(files) > 1} == {}
