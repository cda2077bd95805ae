"""Trackers show what metrics.jsonl holds, go on with a run that goes on, and never stop one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from orchestrator.telemetry import trackers
from orchestrator.telemetry.metrics import MetricsLog
from orchestrator.telemetry.trackers import INSTALL, STATE, missing_tracker
from schemas.config.file import SettingError
from schemas.config.run import Run
from tests.orchestrator.run_folder.test_set_aside import events


class Recorder:
    """A tracker as accelerate makes them, which keeps what it is given and may be told to fail."""

    made: ClassVar[list[Recorder]] = []
    fails: tuple[str, ...] = ()

    def __init__(self, **arguments: Any) -> None:
        self.arguments, self.points, self.images, self.ended = arguments, list[Any](), list[Any](), False
        Recorder.made.append(self)

    def start(self) -> None:
        self._maybe("start")

    def log(self, values: dict[str, float], step: int) -> None:
        self._maybe("log")
        self.points += [(name, step, value) for name, value in values.items()]

    def log_images(self, values: dict[str, Any], step: int) -> None:
        self.images += [(name, step, pixels.shape) for name, pixels in values.items()]

    def finish(self) -> None:
        self._maybe("finish")
        self.ended = True

    def _maybe(self, what: str) -> None:
        if what in self.fails:
            raise SystemExit("no key") if what == "start" else ConnectionError(f"{what}: gone\nand more")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setattr(Recorder, "fails", ())
    return Recorder


def test_a_tracker_has_the_names_of_the_metrics_file(tmp_path: Path, recorder: type[Recorder]) -> None:
    log = MetricsLog(tmp_path, 0, ("tensorboard", "wandb"))
    log.write("validation", 0, {"sampled/reward": 2.5})
    log.write("train", 0, {"reward/mean": 3.0, "learner/kl": None})
    log.close()
    (made,) = recorder.made
    assert made.points == [("validation/sampled/reward", 0, 2.5), ("train/reward/mean", 0, 3.0)]
    assert made.ended
    assert made.arguments["name"] == tmp_path.name


def test_a_run_that_goes_on_is_the_same_run_without_double_steps(tmp_path: Path, recorder: type[Recorder]) -> None:
    log = MetricsLog(tmp_path, 0, ("wandb",))
    for step in range(3):
        log.write("train", step, {"reward/mean": float(step)})
    log.close()
    resumed = MetricsLog(tmp_path, 1, ("wandb",))  # steps 1 and 2 are made again
    for step in range(1, 4):
        resumed.write("train", step, {"reward/mean": float(step)})
    resumed.close()
    first, second = recorder.made
    assert first.arguments["id"] == second.arguments["id"]
    assert [step for _, step, _ in first.points + second.points] == [0, 1, 2, 3]


def test_a_tracker_that_joins_later_gets_what_was_before(tmp_path: Path, recorder: type[Recorder]) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in range(2):
        log.write("train", step, {"reward/mean": float(step)})
    log.close()
    MetricsLog(tmp_path, 2, ("tensorboard", "wandb")).close()
    assert recorder.made[0].points == [("train/reward/mean", 0, 0.0), ("train/reward/mean", 1, 1.0)]


@pytest.mark.parametrize(
    ("when", "cause"),
    [("start", "SystemExit: no key"), ("log", "ConnectionError: log: gone"), ("finish", "finish: gone")],
)
def test_one_that_fails_is_named_once_and_stops_nothing(
    tmp_path: Path, recorder: type[Recorder], when: str, cause: str
) -> None:
    recorder.fails = (when,)
    said: list[str] = []
    log = MetricsLog(tmp_path, 0, ("wandb", "tensorboard"), said.append)
    for step in range(3):
        log.write("train", step, {"reward/mean": 1.0})
    log.close()
    (line,) = said
    assert line.startswith("warning      tracker wandb failed")
    assert line.endswith(cause)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert {event.step for event in _board(tmp_path) if event.summary.value} == {0, 1, 2}


def _board(folder: Path) -> list[Event]:
    return [event for file in (folder / "tensorboard").iterdir() for event in events(file)]


def test_pictures_of_a_validation_are_shown(tmp_path: Path, recorder: type[Recorder]) -> None:
    log = MetricsLog(tmp_path, 0, ("tensorboard", "wandb"))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "pictures" / "step-000002.png")
    log.pictures(1)  # none was drawn
    log.pictures(2)
    log.close()
    shown = [(event.step, value) for event in _board(tmp_path) for value in event.summary.value]
    ((step, value),) = shown
    assert (step, value.tag, value.image.width, value.image.height) == (2, "validation/overlays", 40, 30)
    assert recorder.made[0].images == [("validation/overlays", 2, (1, 30, 40, 3))]


def test_a_missing_package_is_refused_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert missing_tracker(("tensorboard",)) is None
    for name, command in INSTALL.items():
        error = missing_tracker(("tensorboard", name))
        assert isinstance(error, SettingError)
        assert command in str(error)
        assert f"the package {name} is not installed" in str(error)
    assert {"tensorboard", *INSTALL} == set(Run.model_fields["trackers"].annotation.__args__[0].__args__)  # pyright: ignore


def test_trackio_has_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    if any(name == "trackio" for name in sys.modules):
        pytest.skip("trackio was loaded with another folder")
    pytest.importorskip("trackio", reason=f"trackio is not installed: {INSTALL['trackio']}")
    said: list[str] = []
    run = tmp_path / "run"
    run.mkdir()
    for start, steps in ((0, range(3)), (1, range(1, 4))):
        log = MetricsLog(run, start, ("trackio",), said.append)
        for step in steps:
            log.write("train", step, {"reward/mean": step / 2})
        log.close()
    from trackio.sqlite_storage import SQLiteStorage

    kept = SimpleNamespace(**json.loads((run / STATE).read_text())["trackio"])
    points = SQLiteStorage.get_logs("pointvg", f"run-{kept.run}")
    assert [(point["step"], point["train/reward/mean"]) for point in points] == [(0, 0.0), (1, 0.5), (2, 1.0), (3, 1.5)]
    assert all(line.startswith("live view    http://") for line in said), said
