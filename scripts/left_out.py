"""Packages that a dependency asks for and that a build never loads: set-up leaves them out and says so to pip.

In the place of each stands its metadata alone, with a local version that `pip list` shows (triton 3.9.0+left.out): pip
then finds the requirement met and downloads nothing, `pip check` holds for all the rest, and an import fails as it does
where the package is absent, which every importer here expects. `pip uninstall` removes it like any other.
"""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LABEL = "+left.out"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One package, the version whose place is taken, the builds that do without it, and why they can."""

    name: str
    version: str
    builds: tuple[str, ...]
    why: str

    @property
    def placeholder(self) -> str:
        """The version that pip is shown."""
        return self.version + LABEL

    @property
    def requirement(self) -> str:
        """What pip is asked for, so that it keeps the placeholder.

        >>> LeftOut("triton", "3.9.0", ("cpu",), "").requirement
        'triton==3.9.0+left.out'
        """
        return f"{self.name}=={self.placeholder}"


PACKAGES = (
    # xgrammar asks for Triton on every Linux x86-64; its CPU kernel is compiled C++. vLLM's CPU build turns Triton off.
    LeftOut("triton", "3.9.0", ("cpu",), "compiles kernels for GPUs"),
    # vLLM asks for both. Their wheels load beside few builds of torch, and transformers imports them if they are there.
    LeftOut("torchaudio", "2.11.0", ("cpu", "gpu"), "reads sound"),
    LeftOut("torchcodec", "0.17.0", ("cpu", "gpu"), "reads sound and video"),
)


def of(build: str) -> list[LeftOut]:
    """What a build leaves out."""
    return [package for package in PACKAGES if build in package.builds]


def installed_for_real(package: LeftOut) -> bool:
    """True when the package itself is there, as an earlier set-up may have left it."""
    try:
        return not version(package.name).endswith(LABEL)
    except PackageNotFoundError:
        return False


def put_placeholder(package: LeftOut, site_packages: Path | None = None) -> None:
    """Writes the metadata that stands for a package, in the form that installers record what they did."""
    site_packages = site_packages or Path(sysconfig.get_paths()["purelib"])
    for old in site_packages.glob(f"{package.name}-*{LABEL}.dist-info"):  # of another version
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    folder = site_packages / f"{package.name}-{package.placeholder}.dist-info"
    folder.mkdir(parents=True)
    metadata = (
        "Metadata-Version: 2.1",
        f"Name: {package.name}",
        f"Version: {package.placeholder}",
        f"Summary: Left out by PointVG-R's set-up, which needs nothing of it; the package {package.why}.",
    )
    texts = {"METADATA": "\n".join(metadata) + "\n", "INSTALLER": "pointvg-setup\n"}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    listed = [f"{folder.name}/{name},,\n" for name in (*texts, "RECORD")]
    (folder / "RECORD").write_text("".join(listed), encoding="utf-8")
