"""Runs the steps of docker/Dockerfile's CPU image in a folder, for machines without a container engine.

    python docker/try_steps.py /path/to/scratch        # installs some 4 GB; minutes

COPY follows .dockerignore; absolute paths of the image are put under the folder. Steps that need root are not run; the
Debian packages that they install are looked up instead, and every shared library that the Python packages link to must
come from these or from the base image. At last the command line of the image is tried.

Exit code 0: every other step ran, and the last line names those of root. 1: the last lines name the step that cannot
run here, and why. A step that takes longer than --limit seconds is ended.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
AS_ROOT = "apt-get "
# Debian packages of the slim Python image that libraries may come from.
IN_BASE = {"libc6", "libgcc-s1", "libstdc++6", "zlib1g"}


@dataclass(slots=True)
class Stage:
    """Instructions of one stage of the Dockerfile, in order."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def stages(text: str, build: str) -> dict[str, Stage]:
    """The stages by name, with ARG BUILD filled in.

    >>> stages("ARG BUILD=cpu\\nFROM x AS a\\nRUN one \\\\\\n  two\\nFROM a-${BUILD} AS b", "cpu")["a"].steps
    [('RUN', 'one    two')]
    """
    found: dict[str, Stage] = {}
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        instruction, _, rest = line.replace("${BUILD}", build).strip().partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = Stage(base)
        elif found and instruction:
            found[name].steps.append((instruction, rest.strip()))
    return found


def context(ignore: str) -> Iterator[Path]:
    """Files of the repository that .dockerignore lets into the build, relative to its root.

    The file must be of the form: everything out ("*"), names let in ("!name"), patterns out again ("**/pattern").
    """
    lines = [line for line in ignore.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = [line[1:] for line in lines if line.startswith("!")]
    out = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]
    for name in let_in:
        top = ROOT / name
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            relative = file.relative_to(ROOT)
            if file.is_file() and not any(fnmatch.fnmatch(part, each) for part in relative.parts for each in out):
                yield relative


class Trial:
    """One run of the steps under a folder."""

    def __init__(self, folder: Path, limit_s: float = 3600.0) -> None:
        self.folder = folder
        self.limit_s = limit_s
        self.left_out: list[str] = []
        self.cwd = folder
        self.environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self.files = list(context((ROOT / ".dockerignore").read_text(encoding="utf-8")))

    def at(self, text: str) -> str:
        """The text with the image's own absolute paths under the folder."""
        return re.sub(r"(?<![\w.])/(?=(opt/venv|build|app)\b)", f"{self.folder}/", text)

    def play(self, stage: Stage) -> None:
        """Every step of a stage. Ends the program, naming the step, where one cannot run."""
        for instruction, rest in stage.steps:
            self.step(instruction, rest)

    def step(self, instruction: str, rest: str) -> None:
        """One step."""
        print(f"{instruction:8} {rest}", flush=True)
        try:
            getattr(self, f"do_{instruction.lower()}")(rest)
        except (OSError, subprocess.SubprocessError) as error:
            sys.exit(f"this step cannot run here: {instruction} {rest}\n{reason(error)}")

    def do_arg(self, rest: str) -> None:
        """Taken from the environment as it is."""

    def do_user(self, rest: str) -> None:
        """Steps run as whoever runs this."""

    def do_workdir(self, rest: str) -> None:
        """Made if it is not there."""
        self.cwd = Path(self.at(rest))
        self.cwd.mkdir(parents=True, exist_ok=True)

    def do_env(self, rest: str) -> None:
        """Sets variables of later steps."""
        for name, value in (word.split("=", 1) for word in rest.split()):
            self.environment[name] = self.at(value).replace("$PATH", self.environment["PATH"])

    def do_copy(self, rest: str) -> None:
        """From the build's context; from another stage there is nothing to copy here."""
        *sources, target = rest.split()
        if sources[0].startswith("--from="):
            return
        chosen = [f for f in self.files if any(s == "." or f == Path(s) or Path(s) in f.parents for s in sources)]
        assert chosen, f"COPY {rest}: .dockerignore leaves nothing of it"
        for file in chosen:
            to = self.cwd / (file if target in (".", "./") else Path(target) / file.name)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, to)

    def do_run(self, rest: str) -> None:
        """A step that needs root is not run; its packages are looked up."""
        if AS_ROOT not in rest:
            self.shell(self.at(rest).replace("--owner=pointvg --group=pointvg ", ""))
            return
        apt = shutil.which("apt-cache")
        for package in packages_of(rest):
            asked = [apt, "policy", package] if apt else ["true"]
            known = "Candidate:" in subprocess.run(asked, capture_output=True, text=True, check=True).stdout
            self.left_out.append(
                f"apt-get install {package} ({'apt knows it' if known else 'apt here does not know it'})"
            )

    def do_cmd(self, rest: str) -> None:
        """The image's own command."""
        self.shell(" ".join(re.findall(r'"([^"]*)"', rest)) + " > /dev/null")

    def shell(self, command: str) -> None:
        """A command with the environment of the step. What it has started ends with it."""
        started = subprocess.Popen(["sh", "-c", command], cwd=self.cwd, env=self.environment, start_new_session=True)
        try:
            status = started.wait(self.limit_s)
        except BaseException:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            raise
        if status:
            raise subprocess.CalledProcessError(status, command)


def reason(error: OSError | subprocess.SubprocessError) -> str:
    """Why a step did not run, as one line.

    >>> reason(subprocess.TimeoutExpired("x", 5.0))
    'it took longer than 5 s; give more with --limit'
    """
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took longer than {error.timeout:g} s; give more with --limit"
    if isinstance(error, subprocess.CalledProcessError):
        return f"it ended with exit code {error.returncode}; what it said stands above"
    return str(error)


def packages_of(command: str) -> list[str]:
    """Debian packages that a step installs.

    >>> packages_of("apt-get update && apt-get install --yes --no-install-recommends a b && rm x")
    ['a', 'b']
    """
    found = re.search(r"apt-get install ([^&]+)", command)
    return [word for word in found.group(1).split() if not word.startswith("-")] if found else []


def foreign_libraries(packages: Path, known: set[str]) -> dict[str, str]:
    """Shared libraries that Python packages link to, by their Debian package where that is not a known one."""
    needed: set[str] = set()
    for file in packages.rglob("*.so*"):
        listed = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False).stdout
        needed |= set(re.findall(r"=> (/(?:usr/)?lib/\S+)", listed))
    found: dict[str, str] = {}
    for library in sorted(needed):
        owner = subprocess.run(
            ["dpkg", "-S", library, f"/usr{library}"], capture_output=True, text=True, check=False
        ).stdout.partition(":")[0]
        if owner not in known:
            found[library] = owner
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for one step")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = stages(DOCKERFILE.read_text(encoding="utf-8"), "cpu")
    trial = Trial(folder, given.limit)
    trial.environment["BUILD"] = "cpu"
    for name in ("base", "packages", found["image"].base, "image"):
        trial.play(found[name])
    if shutil.which("dpkg"):
        known = IN_BASE | {p for step in found["base"].steps for p in packages_of(step[1])}
        foreign = foreign_libraries(folder / "opt" / "venv" / "lib" / "python3.11" / "site-packages", known)
        if foreign:
            sys.exit(f"libraries that the image would not have: {foreign}")
    else:
        trial.left_out.append("which Debian package each library is of (no dpkg here)")
    trial.step("RUN", "python -m orchestrator scenes data/scenes --train 2 --validation 2 --test 2")
    trial.step("RUN", "ray --version && python -c 'import vllm, services.reward.serve_app, orchestrator.train_run'")
    print(f"all steps ran but these: {'; '.join(trial.left_out)}")


if __name__ == "__main__":
    main()
