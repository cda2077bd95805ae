"""Proposals of hands for people to correct: MediaPipe in an environment of its own, made on first use.

photos --a path a line--> orchestrator/hand_landmarks.py in that environment --a line each--> HandProposal or None
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pointing.formats.label_studio_project import HandProposal

PACKAGE = "mediapipe==0.10.21"  # the last that ships its models
PROGRAM = Path(__file__).with_name("hand_landmarks.py")
_DONE = "ready"


class ProposalError(RuntimeError):
    """No hands can be proposed; the message says why and what to do."""


def environment_folder() -> Path:
    """Where the environment is kept: a folder of the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "pointvg" / PACKAGE.replace("==", "-")


def environment(folder: Path, say: Callable[[str], None]) -> Path:
    """The Python of the environment with MediaPipe, which is made if it is not there: about 1 GB, a minute or two.

    Raises ProposalError where it cannot be made.
    """
    python = folder / "bin" / "python"
    if (folder / _DONE).is_file() and python.exists():
        return python
    say(f"environment  {folder}: installing {PACKAGE} there, once (about 1 GB)")
    without = "; correct that, or go on without proposals: --no-proposals"
    try:
        venv.create(folder, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ProposalError(f"{folder}: no environment can be made there ({error}){without}") from error
    if done.returncode:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), "pip failed")
        offline = "no package index can be reached, or it has no build for this Python"
        why = offline if "No matching distribution" in done.stderr else said.removeprefix("ERROR: ")
        raise ProposalError(f"{PACKAGE} cannot be installed: {why}{without}")
    (folder / _DONE).touch()
    return python


def proposals(python: Path, photos: Sequence[Path]) -> Iterator[HandProposal | None]:
    """A proposal or None for each photo, in order. Raises ProposalError where the program breaks off."""
    with tempfile.TemporaryDirectory(prefix="pointvg-hands-") as folder:
        asked, noise = Path(folder, "photos"), Path(folder, "noise")
        asked.write_text("".join(f"{json.dumps(str(photo))}\n" for photo in photos), encoding="utf-8")
        alone = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        with asked.open("rb") as lines, noise.open("wb") as errors:
            command = [str(python), str(PROGRAM)]
            running = subprocess.Popen(
                command, stdin=lines, stdout=subprocess.PIPE, stderr=errors, env=alone, text=True
            )
        assert running.stdout is not None
        try:
            for photo in photos:
                line = running.stdout.readline()
                if not line:
                    said = (noise.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                    raise ProposalError(f"{photo}: MediaPipe broke off ({said}); replace it, or use --no-proposals")
                yield _read(line)
        finally:
            with contextlib.suppress(OSError):
                running.kill()
            running.wait()


def _read(line: str) -> HandProposal | None:
    found = json.loads(line)
    if found is None:
        return None
    left, top, right, bottom = found["box"]
    return HandProposal((left, top, right, bottom), tuple(found["base"]), tuple(found["tip"]), found["score"])
