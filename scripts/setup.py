"""Installs the project into the virtual environment this runs in, choosing the build that fits the machine.

NVIDIA driver present -> the CUDA build of vLLM; otherwise the CPU build with CPU torch.
POINTVG_BUILD=cpu|gpu overrides. With --dependencies the project itself and the tools for developers are left out, as in
the image.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE_PACKAGES = Path(sysconfig.get_paths()["purelib"])
HOOK = SITE_PACKAGES / "_pointvg_torchvision_ops.py"
HOOK_PTH = SITE_PACKAGES / "_pointvg_torchvision_ops.pth"


def has_nvidia_gpu() -> bool:
    """True when the NVIDIA driver answers with at least one device."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def imports(module: str) -> bool:
    """True when a fresh interpreter can import the module."""
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def installed(package: str) -> bool:
    return (
        subprocess.run(
            [sys.executable, "-c", f"import importlib.metadata as m; m.version({package!r})"],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )


def dependencies(build: str) -> list[str]:
    """What the project needs with the extra of a build, as requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["dependencies"] + project["optional-dependencies"][build]


def mend_torchvision() -> None:
    """Installs the import hook where torchvision does not import without it, and removes it where it does."""
    HOOK.unlink(missing_ok=True)
    HOOK_PTH.unlink(missing_ok=True)
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
    print("setup: torchvision is built for another torch; installed an import hook for it")


def drop_unloadable_audio() -> None:
    """Removes torchaudio and torchcodec when they cannot load: transformers imports them if they are present."""
    unloadable = [name for name in ("torchaudio", "torchcodec") if installed(name) and not imports(name)]
    if unloadable:
        pip("uninstall", "--quiet", "--yes", *unloadable)
        print(f"setup: removed {', '.join(unloadable)}, which do not load beside this torch and are not used")


def main() -> None:
    build = os.environ.get("POINTVG_BUILD") or ("gpu" if has_nvidia_gpu() else "cpu")
    if build not in ("cpu", "gpu"):
        raise SystemExit(f"POINTVG_BUILD={build!r}: expected cpu or gpu")
    print(f"setup: installing the {build} build into {sys.prefix}")
    wanted = dependencies(build) if "--dependencies" in sys.argv[1:] else ["--editable", f"{ROOT}[{build},dev]"]
    pip("install", "--quiet", *wanted)
    drop_unloadable_audio()
    mend_torchvision()
    print("setup: done")


if __name__ == "__main__":
    main()
