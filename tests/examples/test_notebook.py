"""The notebook, from start to end, as a player of notebooks runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def test_it_is_kept_without_output() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.cluster
def test_it_runs_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient and ipykernel are not installed: run make setup-tools")
    pytest.importorskip("ipykernel", reason="nbclient and ipykernel are not installed: run make setup-tools")
    import nbformat  # pyright: ignore

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    copy = tmp_path / "checkout"
    copy.mkdir()
    (copy / "pyproject.toml").write_text("")
    for name in ("examples", "models"):
        (copy / name).symlink_to(ROOT / name)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(copy)}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert said.count(".png: ") == 8
    assert "reward " in said
    last = notebook.cells[-1].outputs[-1]
    assert "image/png" in last["data"]
