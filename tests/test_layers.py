"""The layers hold: imports point down only, and each heavy library has its few places."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A package may import packages strictly below it; equals of one level may not import each other.
LEVEL = {
    "schemas": 0,
    "pointing": 1,
    "algorithms": 1,
    "policy": 2,
    "actors": 3,
    "services": 4,
    "orchestrator": 5,
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


def test_vllm_is_imported_by_the_engine_and_its_gpu_transfer_only() -> None:
    users = [str(f.relative_to(ROOT)) for f in FILES if "vllm" in imports(f)]
    assert users == ["actors/nccl.py", "actors/vllm_engine.py"]


def test_the_check_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text("def f():\n    import ray.data\n    from torch import nn\n")
    assert imports(file) == {"ray", "torch"}
