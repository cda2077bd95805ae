"""What a job uploads, and what it refuses before it costs anything."""

import json
import zipfile
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from orchestrator.preflight.check import check
from orchestrator.preflight.job_paths import _unseen, lost_paths, uploaded
from schemas.config import TrainConfig
from schemas.config.file import load

ROOT = Path(__file__).parents[3]
JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_0.zip"}})}


def quickstart(**values: str) -> TrainConfig:
    overrides = [f"{name.replace('__', '.')}={value}" for name, value in values.items()]
    return load(TrainConfig, ROOT / "configs" / "quickstart.yaml", overrides).config


def test_only_what_a_job_needs_is_uploaded(tmp_path: Path) -> None:
    # As `ray job submit --working-dir .` packs it.
    create_package(str(ROOT), tmp_path / "package.zip", True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        names = [name for name in package.namelist() if not name.endswith("/")]
    assert (tmp_path / "package.zip").stat().st_size < 4_000_000
    packages = {"files", "schemas", "pointing", "algorithms", "policy", "actors", "services"}
    packages |= {"orchestrator", "migration"}
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert folders == packages | {"configs", "models"}
    for package in packages:  # every module, what a report is made of, wordings, and nothing else
        inside = {name for name in names if name.startswith(f"{package}/")}
        modules = {str(file.relative_to(ROOT)) for file in (ROOT / package).rglob("*.py")}
        given = ("report/templates/*", "conversation/wordings.yaml")
        templates = {str(file.relative_to(ROOT)) for place in given for file in (ROOT / package).glob(place)}
        assert inside == modules | templates
    assert {"models/tiny/model.safetensors", "configs/quickstart.yaml", "pyproject.toml"} <= set(names)


def test_results_that_ray_would_delete_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a working directory into which nothing was uploaded
    lines = [str(problem) for problem in lost_paths(quickstart(), JOB)]
    assert "run.folder='runs': lies in the job's copy of the working directory, which Ray deletes" in lines[0]
    assert "model.path='models/tiny': was not uploaded" in lines[1]
    assert "data.train_files='data/scenes/train.jsonl': was not uploaded" in lines[2]
    assert len(lines) == 5


def test_a_path_may_hold_any_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems are records from the start: none is lost because its text cannot be taken apart again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(*next(iter(JOB.items())))
    path = "it's \"mine\"' \n=x"
    config = quickstart(run__folder="/elsewhere", data__validation_files="[]", data__test_files="[]")
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": path})})
    found = [problem for problem in check(config).problems if "uploaded" in problem.reason]
    assert [(problem.field, problem.value) for problem in found] == [
        ("model.path", path),
        ("data.train_files", "data/scenes/train.jsonl"),
    ]


def test_absolute_paths_and_uploaded_files_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "a.jsonl").touch()
    config = quickstart(
        run__folder="/somewhere/else",
        model__path="/shared/model",
        data__train_files="scenes/a.jsonl",
        data__validation_files="[scenes, /shared/b.jsonl]",
        data__test_files="[]",
    )
    assert list(lost_paths(config, JOB)) == []


@pytest.mark.parametrize("environment", [{}, {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {}}'}])
def test_without_an_uploaded_working_directory_relative_paths_are_as_good_as_any(environment: dict[str, str]) -> None:
    assert not uploaded(environment)
    assert list(lost_paths(quickstart(data__train_files="nowhere.jsonl"), environment)) == []


def test_a_node_tells_what_it_does_not_see(tmp_path: Path) -> None:
    probe = tmp_path / "run" / ".probe"
    probe.parent.mkdir()
    probe.write_text("word")
    assert _unseen(str(probe), "word", {"model.path": str(tmp_path)}) == []
    assert _unseen(str(probe), "word", {"model.path": "/no/model"}) == [("model.path", "/no/model")]
    other = ("run.folder", str(probe.parent))  # a folder of the same name, which is another
    assert _unseen(str(probe), "another word", {}) == [other]
    assert _unseen(str(tmp_path / "run" / "gone"), "word", {}) == [other]
