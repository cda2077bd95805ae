"""The numbers and pictures of a run in trackers that people know, by name, through accelerate.tracking.

    metrics.jsonl's record  --"train/reward/mean"-->  TensorBoard, W&B, MLflow, Trackio, SwanLab

A tracker never stops a run: one that fails is named once, with why, and gets nothing more. A run that goes on after an
interruption goes on in each tracker as the same run: trackers.json in the run folder has each one's last steps, and a
step that is made again is not shown a second time. A tracker that joins later gets what was recorded before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from PIL import Image

from files.crash_safe import write_text
from schemas.config.file import SettingError

STATE = "trackers.json"
PROJECT = "pointvg"
# What is to be installed for each; TensorBoard's writer comes with the project. Trackio's own bounds leave out the
# Pillow that this project is tested with, which it works with: so it comes without its dependencies but for these.
INSTALL: Mapping[str, str] = {
    "wandb": "pip install wandb",
    "mlflow": "pip install mlflow",
    "trackio": "pip install brotli orjson && pip install --no-deps trackio gradio-client",
    "swanlab": "pip install swanlab",
}


@dataclass(slots=True)
class Shown:
    """What one tracker has: the id of its run, and the last step of each kind of record; -1 before the first."""

    run: str = field(default_factory=lambda: uuid4().hex[:16])
    last: dict[str, int] = field(default_factory=dict)  # by kind

    def has(self, kind: str, step: int) -> bool:
        """Whether a record was shown before."""
        return step <= self.last.get(kind, -1)


def missing_tracker(names: Sequence[str]) -> SettingError | None:
    """The first tracker whose package is not there, with the command that installs it; None where all are."""
    for name in names:
        if name in INSTALL and find_spec(name) is None:
            return SettingError("run.trackers", list(names), f"the package {name} is not installed", INSTALL[name])
    return None


class Trackers:
    """All trackers of a run. No method raises what a tracker raises."""

    def __init__(self, folder: Path, start: int, names: Sequence[str], say: Callable[[str], None]) -> None:
        """`start` steps are done; TensorBoard hides what it has of later ones."""
        self._folder = folder
        self._say = say
        self._start_step = start
        self._shown = _read(folder / STATE)
        self._open: dict[str, Any] = {}
        for name in names:
            self._shown.setdefault(name, Shown())
            self._guard(name, lambda name=name: self._begin(name))

    def record(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Shows one record of metrics.jsonl, of finite numbers."""
        values = {f"{kind}/{key}": value for key, value in numbers.items()}
        for name, tracker in list(self._open.items()):
            if name == "tensorboard" or not self._shown[name].has(kind, step):
                self._guard(name, lambda tracker=tracker: tracker.log(values, step=step))
                self._shown[name].last[kind] = step
        self._keep()

    def again(self, kind: str, step: int, numbers: Mapping[str, float], time: float) -> None:
        """Shows a record of before the interruption, of `time` (seconds since 1970), to those that do not have it.

        TensorBoard has all but a validation at the step that the run goes on from, which it hides.
        """
        values = {f"{kind}/{key}": value for key, value in numbers.items()}
        for name, tracker in list(self._open.items()):
            if name == "tensorboard":
                if step >= self._start_step:
                    self._guard(name, lambda tracker=tracker: tracker.log(values, step=step, walltime=time))
            elif not self._shown[name].has(kind, step):
                self._guard(name, lambda tracker=tracker: tracker.log(values, step=step))
                self._shown[name].last[kind] = step
        self._keep()

    def pictures(self, step: int, sheet: Path) -> None:
        """Shows a sheet of overlays, a PNG, as that of a validation."""
        for name, tracker in list(self._open.items()):
            if name == "tensorboard" or not self._shown[name].has("pictures", step):
                self._guard(name, lambda name=name, tracker=tracker: _picture(name, tracker, step, sheet))
                self._shown[name].last["pictures"] = step
        self._keep()

    def close(self) -> None:
        """Ends every tracker's run as finished; numbers that were on their way arrive."""
        for name, tracker in list(self._open.items()):
            self._guard(name, tracker.finish)
        self._open.clear()

    def _begin(self, name: str) -> None:
        PartialState(cpu=True)  # accelerate's loggers ask for it
        kind = LOGGER_TYPE_TO_CLASS[name]
        tracker = kind(**_arguments(name, self._folder, self._shown[name].run, self._start_step))
        tracker.main_process_only = False
        tracker.start()
        if name == "trackio":
            _show_trackio(self._say)
        self._open[name] = tracker

    def _guard(self, name: str, act: Callable[[], object]) -> None:
        """What a tracker does, or the one warning that it does no more."""
        try:
            act()
        except (Exception, SystemExit) as error:  # any package's any error: numbers are in metrics.jsonl all the same
            self._open.pop(name, None)
            cause = str(error).strip().splitlines()[:1]
            said = ": ".join((type(error).__name__, *cause))
            self._say(f"warning      tracker {name} failed and gets nothing more: {said}")

    def _keep(self) -> None:
        """Remembers what trackers other than TensorBoard were shown."""
        others = {name: asdict(shown) for name, shown in self._shown.items() if name != "tensorboard"}
        if others:
            write_text(self._folder / STATE, json.dumps(others, indent=1) + "\n")


def _read(file: Path) -> dict[str, Shown]:
    if not file.is_file():
        return {}
    return {name: Shown(**kept) for name, kept in json.loads(file.read_text(encoding="utf-8")).items()}


def _arguments(name: str, folder: Path, run: str, start: int) -> dict[str, Any]:
    """What the tracker of accelerate is made with: the same run each time that this folder's goes on."""
    project = os.environ.get("POINTVG_TRACKER_PROJECT", PROJECT)
    match name:
        case "tensorboard":
            return {"run_name": "tensorboard", "logging_dir": str(folder), "purge_step": start}
        case "wandb":
            return {"run_name": project, "id": run, "name": folder.name, "resume": "allow", "dir": str(folder)}
        case "mlflow":
            return {"experiment_name": project, "run_name": f"{folder.name}-{run}", "run_id": _mlflow_run(project, run)}
        case "trackio":
            return {"run_name": project, "name": f"{folder.name}-{run}", "resume": "allow", "embed": False}
        case _:
            return {"run_name": project, "id": run, "experiment_name": folder.name, "resume": "allow"}


def _mlflow_run(project: str, run: str) -> str | None:
    """MLflow gives its runs ids of its own: that of the run which carries ours in its name, if there is one."""
    import mlflow  # pyright: ignore[reportMissingImports]

    experiment = mlflow.get_experiment_by_name(project)
    if experiment is None:
        return None
    named = f"attributes.run_name LIKE '%-{run}'"
    found = mlflow.search_runs([experiment.experiment_id], filter_string=named, output_format="list")
    return found[0].info.run_id if found else None


def _show_trackio(say: Callable[[str], None]) -> None:
    """Starts Trackio's local page and says where it is."""
    import trackio  # pyright: ignore[reportMissingImports]

    shown = trackio.show(block_thread=False, open_browser=False)
    say(f"live view    {shown[1] if isinstance(shown, tuple) else shown}")


def _picture(name: str, tracker: Any, step: int, sheet: Path) -> None:
    if name == "mlflow":
        tracker.log_artifact(str(sheet), "pictures")
    elif name == "trackio":
        import trackio  # pyright: ignore[reportMissingImports]

        tracker.log({"validation/overlays": trackio.Image(str(sheet))}, step=step)
    else:
        with Image.open(sheet) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        more = {"dataformats": "NHWC"} if name == "tensorboard" else {}
        tracker.log_images({"validation/overlays": pixels[None]}, step=step, **more)
