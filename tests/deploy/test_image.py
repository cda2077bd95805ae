"""The image: hadolint, what goes into it, and that it is what the manifests and the tested environment say."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from actors.environment import environment
from tests.deploy.manifests import ROOT, only, pods, tool

DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILDS = ("cpu", "gpu")
each_build = pytest.mark.parametrize("build", BUILDS)


def loaded(file: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


STEPS = loaded(DOCKER / "try_steps.py")
TEXT = (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def pinned(build: str) -> dict[str, str]:
    """Version by name of a build's constraints."""
    lines = (DOCKER / f"constraints-{build}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [tool("hadolint"), str(DOCKER / "Dockerfile")], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_goes_in_is_the_code_the_configurations_and_the_small_model() -> None:
    files = {file.as_posix() for file in STEPS.context((ROOT / ".dockerignore").read_text(encoding="utf-8"))}
    packages = {name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    tops = {name.split("/")[0] for name in files}
    assert tops == packages | {"LICENSE", "pyproject.toml", "configs", "models", "scripts", "docker"}
    assert {f"configs/{file.name}" for file in (ROOT / "configs").glob("*.yaml")} <= files
    assert not any("__pycache__" in name for name in files)
    assert sum((ROOT / name).stat().st_size for name in files) < 10 * 2**20
    tracked = subprocess.run([tool("git"), "ls-files", *tops], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode == 0:  # a stray file of the working tree would go in too
        assert {name for name in tracked.stdout.split() if name in files} == files


@each_build
def test_the_stages_are_there_and_copy_what_the_context_has(build: str) -> None:
    stages = STEPS.stages(TEXT, build)
    assert stages["image"].base == f"runtime-{build}"
    assert stages[stages["image"].base].base == "base"
    files = set(STEPS.context((ROOT / ".dockerignore").read_text(encoding="utf-8")))
    for instruction, rest in stages["packages"].steps:
        if instruction == "COPY":
            assert {Path(source) for source in rest.split()[:-1]} <= files


def test_it_runs_as_the_user_of_the_manifests_and_compiles_nothing_on_a_cpu() -> None:
    final = STEPS.stages(TEXT, "cpu")["image"].steps
    (user,) = [rest for instruction, rest in final if instruction == "USER"]
    for folder, kind in (("train", "RayJob"), ("reward", "RayService"), ("kind", "RayJob")):
        for pod in pods(only(folder, kind)):
            security = pod["spec"]["securityContext"]
            assert f"{security['runAsUser']}:{security['runAsGroup']}" == user
    assert [rest for instruction, rest in final if instruction == "WORKDIR"] == ["/app"]
    stages = STEPS.stages(TEXT, "cpu")
    of_stage = {name: [p for _, rest in stage.steps for p in STEPS.packages_of(rest)] for name, stage in stages.items()}
    assert {name: found for name, found in of_stage.items() if found} == {
        "base": ["libgomp1", "libnuma1", "wget"],
        "runtime-gpu": ["gcc", "libc6-dev"],
    }


def test_its_environment_is_that_of_the_actors() -> None:
    (words,) = [rest.split() for instruction, rest in STEPS.stages(TEXT, "cpu")["image"].steps if instruction == "ENV"]
    variables = dict(word.split("=", 1) for word in words)
    of_actors = environment(gpus=1, threads=1)
    assert of_actors.items() <= variables.items()
    assert variables["PYTHONPATH"] == "/app"


@each_build
def test_every_dependency_is_pinned_to_a_version_that_the_project_takes(build: str) -> None:
    project = PROJECT["project"]
    for line in project["dependencies"] + project["optional-dependencies"][build]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned(build)[canonicalize_name(wanted.name)]), line


def test_the_makefile_builds_both() -> None:
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^image:.*##", make, re.MULTILINE)
    assert "docker/Dockerfile" in make


@pytest.mark.parametrize(
    ("command", "limit_s", "why"),
    [
        ("exit 3", 60.0, "it ended with exit code 3; what it said stands above"),
        ("sleep 30 & sleep 30", 0.5, "it took longer than 0.5 s; give more with --limit"),
    ],
)
def test_a_step_that_cannot_run_is_named(tmp_path: Path, command: str, limit_s: float, why: str) -> None:
    trial = STEPS.Trial(tmp_path, limit_s)
    with pytest.raises(SystemExit) as ended:
        trial.play(STEPS.Stage("base", [("RUN", "true"), ("RUN", command)]))
    assert ended.value.code == f"this step cannot run here: RUN {command}\n{why}"
