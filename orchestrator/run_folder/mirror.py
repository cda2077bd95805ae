"""Checkpoints kept at a URL too (object storage, say): copied behind the training, brought back where a run continues.

    run folder: step-000050/ --verify--> URL/RUN/step-000050-TOKEN/... --> URL/RUN/step-000050.json, the mark, last
    URL: newest mark --> files --> verify --> run folder: step-000050/

The mark names the folder of the files: what an upload that was cut off has left is read by nobody, and nothing is ever
renamed, which object stores cannot.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

from files.crash_safe import is_sealed, replace_folder, sealed
from orchestrator.run_folder.folder import RunExistsError, RunFolder, critic_of
from policy.state.checkpoint import CheckpointError, verify
from schemas.config import Checkpoint, Run
from schemas.config.file import SettingError

_MARK = re.compile(r"step-(\d{6,})\.json$")
_FILES = re.compile(r"step-(\d{6,})-[0-9a-f]{32}$")


class Mirror:
    """One run's checkpoints at a URL. One driver writes them, one checkpoint at a time."""

    def __init__(self, url: str, run: str, keep: int) -> None:
        """Raises SettingError where fsspec does not know the URL, or lacks a package for it."""
        self.url = f"{url.rstrip('/')}/{run}"
        self._keep = keep
        self._system, self._root = _opened(self.url, url)
        self._sending: Future[None] | None = None

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints there, ascending. Raises CheckpointError where it cannot be read."""
        try:
            return sorted(step for step in self._named(_MARK) if self._mark(step) is not None)
        except Exception as error:
            raise CheckpointError(
                f"{self.url} cannot be read: {_line(error)}; see checkpoint.mirror and the credentials"
            ) from error

    def begin(self, checkpoint: Path, step: int, best: int | None) -> None:
        """Starts to copy a complete checkpoint; then all there but the last `keep` and that of step `best` go.

        It must stay where it is until `finish`, which is to be called first where another one is on its way.
        """
        sending: Future[None] = Future()

        def send() -> None:
            try:
                self._send(checkpoint, step, best)
                sending.set_result(None)
            except Exception as error:
                sending.set_exception(error)

        self._sending = sending
        threading.Thread(target=send, name="mirror", daemon=True).start()  # a run that must end now does not wait

    def finish(self) -> str | None:
        """Waits; why the checkpoint on its way could not be copied, None when it was or there is none."""
        sending, self._sending = self._sending, None
        error = None if sending is None else sending.exception()
        return None if error is None else f"not copied to {self.url}: {_line(error)}"

    def fetch(self, folder: RunFolder, step: int) -> None:
        """Brings a checkpoint into the run folder. Raises CheckpointError where it is damaged or cannot be read."""
        target = folder.checkpoint(step)
        try:
            mark = self._mark(step)
            assert mark is not None, "`step` is one of `steps`"
            for part in (critic_of(target), target):  # the policy's last, which makes it complete
                names: list[str] = mark["parts"].get(part.suffix, [])
                partial = part.with_name(part.name + ".partial")
                if bad := next((name for name in [mark["folder"], *names] if not _below(name)), None):
                    raise CheckpointError(f"step {step} at {self.url} names {bad!r}, which is no file of a checkpoint")
                shutil.rmtree(partial, ignore_errors=True)
                for name in names:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    self._system.get_file(f"{self._root}/{mark['folder']}{part.suffix}/{name}", str(partial / name))
                if names:
                    verify(partial)
                    replace_folder(part, partial)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"step {step} at {self.url} cannot be read: {_line(error)}") from error

    def _send(self, checkpoint: Path, step: int, best: int | None) -> None:
        folder = f"step-{step:06d}-{uuid.uuid4().hex}"
        parts: dict[str, list[str]] = {}
        for part in (path for path in (checkpoint, critic_of(checkpoint)) if path.is_dir()):
            verify(part)
            files = sorted(file for file in part.rglob("*") if file.is_file())
            parts[part.suffix] = [file.relative_to(part).as_posix() for file in files]
            for file, name in zip(files, parts[part.suffix], strict=True):
                path = f"{self._root}/{folder}{part.suffix}/{name}"
                self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._system.put_file(str(file), path)
                if self._system.size(path) != file.stat().st_size:
                    raise OSError(f"{path} has another size than {file}")
        mark = json.dumps(sealed({"folder": folder, "parts": parts}))
        self._system.pipe_file(f"{self._root}/step-{step:06d}.json", mark.encode())
        self._prune(step, best)

    def _prune(self, newest: int, best: int | None) -> None:
        """Marks go before their files. Files without a mark are what uploads that were cut off have left."""
        kept = {*self.steps()[-self._keep :], newest, best}
        for step in self._named(_MARK).keys() - kept:
            self._system.rm_file(f"{self._root}/step-{step:06d}.json")
        marked = {mark["folder"] for step in self._named(_MARK) if (mark := self._mark(step)) is not None}
        for name in self._listing():
            if _FILES.search(name.removesuffix(".critic")) and name.removesuffix(".critic") not in marked:
                self._system.rm(f"{self._root}/{name}", recursive=True)

    def _mark(self, step: int) -> dict[str, Any] | None:
        """None where it was not written to its end."""
        try:
            mark = json.loads(self._system.cat_file(f"{self._root}/step-{step:06d}.json"))
        except ValueError:
            return None
        return mark if is_sealed(mark) else None

    def _named(self, pattern: re.Pattern[str]) -> dict[int, str]:
        return {int(match.group(1)): name for name in self._listing() if (match := pattern.fullmatch(name))}

    def _listing(self) -> list[str]:
        self._system.invalidate_cache()
        if not self._system.exists(self._root):
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in self._system.ls(self._root, detail=False)]


class NoMirror:
    """Stands where checkpoints are kept in the run folder alone."""

    def steps(self) -> list[int]:
        """None are elsewhere."""
        return []

    def begin(self, checkpoint: Path, step: int, best: int | None) -> None:
        """Nothing to copy."""

    def finish(self) -> None:
        """Nothing to wait for."""

    def fetch(self, folder: RunFolder, step: int) -> None:
        """Nothing to bring: there are no steps."""


def mirror_of(run: Run, options: Checkpoint) -> Mirror | NoMirror:
    """What checkpoint.mirror asks for."""
    return NoMirror() if options.mirror is None else Mirror(options.mirror, run.name, options.keep)


def bring_back(folder: RunFolder, run: Run, options: Checkpoint, say: Callable[[str], None]) -> None:
    """Puts the newest checkpoint of the URL, or that of run.resume_step, into the run folder if it is not there.

    A damaged one is named and passed over. Raises CheckpointError when all newer than those of the folder are damaged,
    RunExistsError when there are any and run.resume is false.
    """
    mirror = mirror_of(run, options)
    here, there = folder.steps(), mirror.steps()
    if there and not run.resume:
        raise RunExistsError(f"{options.mirror} holds {run.name!r} and run.resume=false; set run.name=...")
    wanted = [step for step in there if step not in here]
    if run.resume_step is not None:
        wanted = [step for step in wanted if step == run.resume_step]
    else:
        wanted = [step for step in wanted if step > max(here, default=-1)]
    for step in reversed(wanted):
        try:
            mirror.fetch(folder, step)
        except CheckpointError as error:
            say(f"DAMAGED      {error}; trying the one before")
        else:
            say(f"brought back {folder.checkpoint(step)} from {options.mirror}")
            return
    if wanted and not here:
        raise CheckpointError(f"none of the checkpoints at {options.mirror} can be used: {wanted}; see the lines above")


def _below(name: str) -> bool:
    """Whether a name says a file below a folder, and of none else: it is read from a place that others may write."""
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\\" not in name and "\0" not in name


def _opened(url: str, given: str) -> tuple[Any, str]:
    """Of a URL below the one that was `given`."""
    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SettingError(
            "checkpoint.mirror",
            given,
            str(error),
            "install what the URL needs on the driver's machine (s3fs for s3://, gcsfs for gs://, adlfs for abfs://), "
            "or use file://",
        ) from None


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]
