"""One line of numbers per step: JSONL and Ray's metrics for machines, trackers for charts, lines for people."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.run_folder.set_aside import METRICS, set_aside
from orchestrator.telemetry.gauges import Gauges
from orchestrator.telemetry.trackers import Trackers

Numbers = Mapping[str, float | None]  # None where nothing was measured


class MetricsLog:
    """Appends to metrics.jsonl and to trackers, which a resumed run continues, and sets the run's gauges."""

    def __init__(
        self,
        folder: Path,
        start: int,
        trackers: Sequence[str] = ("tensorboard",),
        say: Callable[[str], None] = print,
    ) -> None:
        """`start` steps are done; what was recorded of later ones is set aside, and hidden in TensorBoard."""
        kept = set_aside(folder, start)
        self._folder = folder
        self._logged = {(record["kind"], record["step"]) for record in kept}
        self._file = (folder / METRICS).open("a", encoding="utf-8")
        self._trackers = Trackers(folder, start, trackers, say)
        self._gauges = Gauges(folder.name)
        for record in kept:
            numbers = {key: record[key] for key in record if key not in ("kind", "step", "time")}
            self._trackers.again(record["kind"], record["step"], dict(_known(numbers)), record["time"])
        if start:
            self.pictures(start)  # TensorBoard hides this sheet too

    def has(self, kind: str, step: int) -> bool:
        """Whether there is such a record."""
        return (kind, step) in self._logged

    def write(self, kind: str, step: int, numbers: Numbers) -> None:
        """One record: `kind` is "train" or "validation".

        What was not measured or is not finite is null in the file, and no point in a tracker.
        """
        known = dict(_known(numbers))
        record: dict[str, Any] = {"kind": kind, "step": step, "time": round(time.time(), 3)}
        record |= {key: known.get(key) for key in numbers}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._logged.add((kind, step))
        self._trackers.record(kind, step, known)
        self._gauges.show(kind, step, known)

    def pictures(self, step: int) -> None:
        """Shows trackers the sheet of overlays of a validation, where one was drawn."""
        sheet = self._folder / "pictures" / f"step-{step:06d}.png"
        if sheet.is_file():
            self._trackers.pictures(step, sheet)

    def close(self) -> None:
        """Flushes all."""
        self._file.close()
        self._trackers.close()


def _known(numbers: Numbers) -> Iterator[tuple[str, float]]:
    """What was measured and is finite."""
    return ((key, value) for key, value in numbers.items() if value is not None and math.isfinite(value))


class Screen(Protocol):
    """What a person watches."""

    def step(self, step: int, numbers: Numbers) -> None:
        """Shows one finished step."""
        ...

    def say(self, text: str) -> None:
        """Shows a line."""
        ...

    def close(self) -> None:
        """Ends the display."""
        ...


def screen(total: int, done: int) -> Screen:
    """A live bar on a terminal, plain lines elsewhere."""
    return LiveScreen(total, done) if sys.stdout.isatty() else PlainScreen(total, done)


def _summary(numbers: Numbers) -> str:
    """A step of stage 2, or of stage 1, where there is no reward."""
    known = dict(_known(numbers))
    rate = f"{known['reply/trained_tokens'] / known['time/step']:6.0f} tok/s"
    if "pace/gpu_tokens_per_second" in known:  # all tokens here, those trained on above
        rate += f"  {known['pace/gpu_tokens_per_second']:.0f} tok/s/GPU"
    if "pace/mfu" in known:
        rate += f"  MFU {known['pace/mfu']:.1%}"
    if "reward/mean" in known:
        return f"reward {known['reward/mean']:5.2f}  mIoU {known.get('reward/obj_iou', math.nan):.3f}  {rate}"
    loss = known.get("learner/loss")
    return f"loss {'skipped' if loss is None else f'{loss:7.4f}'}  {rate}"


class LiveScreen:
    """A Rich progress bar."""

    def __init__(self, total: int, done: int) -> None:
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}"))
        self._bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console())
        self._task = self._bar.add_task("train", total=total, completed=done, text="starting")
        self._bar.start()

    def step(self, step: int, numbers: Numbers) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=step + 1, text=_summary(numbers))

    def say(self, text: str) -> None:
        """Prints above the bar."""
        self._bar.console.print(text, highlight=False)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.stop()


class PlainScreen:
    """One line per step, for logs."""

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._first = done
        self._started = time.monotonic()

    def step(self, step: int, numbers: Numbers) -> None:
        """Prints the step with the time left, judged by the steps so far."""
        each = (time.monotonic() - self._started) / (step + 1 - self._first)
        left = each * (self._total - step - 1)
        print(f"step {step + 1:4d}/{self._total}  {_summary(numbers)}  {left / 60:4.1f} min left", flush=True)

    def say(self, text: str) -> None:
        """Prints the line."""
        print(text, flush=True)

    def close(self) -> None:
        """Nothing to end."""
