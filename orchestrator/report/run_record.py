"""Everything that a page says of a run, read from its folder once.

    config.yaml, versions.json  -- what was run
    metrics.jsonl               -- series of numbers
    samples/step-N.parquet      -- the replies of each validation
    rollouts/step-N.parquet     -- some groups of training steps
    recoveries.jsonl, aside.N/  -- what was lost, and what was made again

A folder of a run that was killed is read as far as it goes; what cannot be read is named in `notes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.batch.kept_groups import COLUMNS, IMAGE
from orchestrator.run_folder.folder import RunFolder, read_json
from orchestrator.telemetry.curves import Series, read_series
from schemas.config import SftConfig, TrainConfig

AnyConfig = TrainConfig | SftConfig


class NoRunError(ValueError):
    """A folder is not that of a run, or has nothing to show; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Played:
    """Replies of the validation after so many steps, or of the training step of this number, the first being 1.

    ROLLOUT and SCORES columns but for those of each token; of training also where the image lies.
    """

    step: int
    table: pa.Table


@dataclass(frozen=True, slots=True)
class PastRecovery:
    """One line of recoveries.jsonl: what was lost, and how many seconds it took to bring it back.

    >>> PastRecovery("learner", "1", "update of step 3", "died", 20.5).fault
    'died'
    """

    role: str
    ranks: str
    what: str
    fault: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as its folder tells it. `versions` are of Python and packages; `asides` counts interruptions that set
    steps aside; `notes` say what could not be read."""

    folder: RunFolder
    config: AnyConfig
    versions: Mapping[str, str]
    series: Mapping[tuple[str, str], Series]
    validations: tuple[Played, ...]
    rollouts: tuple[Played, ...]
    recoveries: tuple[PastRecovery, ...]
    asides: int
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.root.resolve().name

    @property
    def steps(self) -> int:
        """Steps done."""
        return max((steps[-1] + 1 for (kind, _), (steps, _) in self.series.items() if kind == "train"), default=0)

    def values(self, key: str) -> list[float]:
        """A training series by its name; [] where it was not logged."""
        return self.series[("train", key)][1] if ("train", key) in self.series else []


def read_run(folder: RunFolder, config: AnyConfig) -> RunRecord:
    """Reads a run's folder. Raises NoRunError where there is none."""
    if not folder.root.is_dir():
        raise NoRunError(f"{folder.root}: no such folder; name the folder of a run, such as runs/quickstart")
    notes: list[str] = []
    series = read_series(folder.metrics) if folder.metrics.is_file() else {}
    if not series:
        notes.append(f"{folder.metrics.name} holds no numbers yet")
    return RunRecord(
        folder,
        config,
        read_json(folder.root / "versions.json"),
        series,
        tuple(_played(folder.root / "samples", COLUMNS, notes)),
        tuple(_played(folder.root / "rollouts", [*COLUMNS, IMAGE], notes)),
        tuple(_recoveries(folder.root / "recoveries.jsonl")),
        len(list(folder.root.glob("aside.*"))),
        tuple(notes),
    )


def _played(folder: Path, columns: list[str], notes: list[str]) -> Iterator[Played]:
    for file in sorted(folder.glob("step-*.parquet")):
        try:
            yield Played(int(file.stem.removeprefix("step-")), pq.read_table(file, columns=columns))
        except (pa.ArrowException, OSError, ValueError) as error:  # a killed run leaves half a file
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            notes.append(f"{file.parent.name}/{file.name} cannot be read and is left out ({reason})")


def _recoveries(file: Path) -> Iterator[PastRecovery]:
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            found = json.loads(line)
        except ValueError:
            continue  # half a line
        ranks = ", ".join(map(str, found["ranks"]))
        yield PastRecovery(found["role"], ranks, found["what"], found["fault"], found["seconds"])
