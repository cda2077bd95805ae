"""Nothing that is read from disk is run: no pickles, and no code from model folders unless the user asks for it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.config import Model

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
    "migration",
    "benchmarks",
    "scripts",
)
RUN = {"pickle.load", "pickle.loads", "dill.load", "joblib.load", "yaml.load", "yaml.unsafe_load", "eval", "exec"}


def violations(source: str) -> Iterator[str]:
    """Calls that could run what a file says."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name == "torch.load" and given.get("weights_only") != "True":
            yield f"line {node.lineno}: torch.load without weights_only=True"
        if name in RUN or name.endswith("pickle.Unpickler"):
            yield f"line {node.lineno}: {name}"
        if given.get("allow_pickle") == "True" or given.get("trust_remote_code") == "True":
            yield f"line {node.lineno}: {name} with allow_pickle or trust_remote_code"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_read_so_that_it_could_run(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [f"{file.relative_to(ROOT)}: {each}" for file in files for each in violations(file.read_text())]
    assert not found, found


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "pickle.load(f)",
        "pickle.Unpickler(f).load()",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f)",
        "AutoTokenizer.from_pretrained(p, trust_remote_code=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert list(violations(source))
    assert not list(violations("torch.load(f, weights_only=True); yaml.safe_load(f); np.load(f)"))


def test_code_of_a_model_folder_is_not_trusted_unless_asked_for() -> None:
    assert Model(path="m").trust_remote_code is False
