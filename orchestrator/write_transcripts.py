"""A data file with the transcripts of stage 1 added to its rows, each in the model's own frame.

data file --row by row--> ground truth, image size --Writer--> turns, checked as stage 1 will --> the row with them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from files.owned import writing_file
from pointing.coordinates import Family, Frame, fit_to_grid
from pointing.curation.row_writer import RowWriter
from pointing.data_rows import DatasetError, task_files
from pointing.dataset import SHOWN, DatasetOptions, ReadRow, read_rows
from pointing.transcript_check import FRAME
from policy.conversation.transcripts import check_transcript
from policy.conversation.wordings import Writer
from schemas.config import Data
from schemas.row_problem import FieldError, RowProblem
from schemas.task import GroundTruth, Transcript


@dataclass(frozen=True, slots=True)
class TranscriptOptions:
    """For which model transcripts are written, in which column, and what becomes of rows that none can be made of."""

    family: Family
    min_pixels: int
    max_pixels: int
    key: str = "transcript"
    on_error: Literal["fail", "skip"] = "fail"


@dataclass(frozen=True, slots=True)
class Transcribed:
    """How many transcripts were written, of which how many of negatives, and the first of the rows left out.

    `from_ray` are those whose finger is the ray's own, since the data has no keypoints.
    """

    positives: int
    negatives: int
    from_ray: int
    left_out: int
    problems: tuple[RowProblem, ...]


def write_transcripts(
    data: DatasetOptions,
    options: TranscriptOptions,
    writer: Writer,
    out: Path,
    *,
    overwrite: bool = False,
    row_read: Callable[[], None] = lambda: None,
) -> Transcribed:
    """Writes every row of one data file with its transcript and the transcript's frame, in the file's order and format.

    Raises DatasetError where rows have no transcript, unless they are to be left out, and ExistsError where something
    would be replaced.
    """
    (file,) = task_files(data.files)
    made = _Made(options, writer)
    with writing_file(out, overwrite=overwrite) as beside:
        with RowWriter(beside, file, _columns(options.key)) as rows:
            for row in made.rows(data, row_read):
                rows.write(row)
        if made.left_out and options.on_error == "fail":
            lines = "\n".join(f"  {problem}" for problem in made.problems)
            more = f"\n  and {made.left_out - len(made.problems)} more" if made.left_out > len(made.problems) else ""
            remedy = "correct them, or leave them out with --skip"
            raise DatasetError(f"{made.left_out} rows have no transcript; {remedy}:\n{lines}{more}")
        if not made.positives + made.negatives:
            raise DatasetError(f"{file}: holds no row of which a transcript can be made")
    return Transcribed(made.positives, made.negatives, made.from_ray, made.left_out, tuple(made.problems))


def _columns(key: str) -> pa.Schema:
    frame = pa.struct([("kind", pa.string()), ("seen_size", pa.list_(pa.int64()))])
    return pa.schema([(key, pa.list_(pa.string())), (f"{key}{FRAME}", frame)])


class _Made:
    """Makes rows with transcripts, and counts."""

    def __init__(self, options: TranscriptOptions, writer: Writer) -> None:
        self._options, self._writer = options, writer
        self.positives = self.negatives = self.from_ray = self.left_out = 0
        self.problems: list[RowProblem] = []

    def rows(self, data: DatasetOptions, row_read: Callable[[], None]) -> Iterator[Mapping[str, Any]]:
        """Every row that a transcript can be made of, with it."""
        for row in read_rows(data):
            try:
                yield self._with_transcript(row, data)
            except FieldError as error:
                self._leave_out(row, error)
            row_read()

    def _with_transcript(self, row: ReadRow, data: DatasetOptions) -> Mapping[str, Any]:
        options = self._options
        if row.errors:
            raise row.errors[0]
        task, size = row.task, row.sizes[0]
        assert task is not None
        assert size is not None
        if row.fields.get(options.key) is not None:
            remedy = "name another column with --transcript-key, or take it out"
            raise FieldError(options.key, "is there already, and would be replaced", remedy)
        try:
            seen = fit_to_grid(size, options.family.grid, options.min_pixels, options.max_pixels)
        except ValueError as error:
            raise FieldError(f"{data.images_key}[0]", str(error), "see --min-pixels and --max-pixels") from None
        frame = Frame(options.family.frame_kind, size, seen)
        truth = task.ground_truth
        try:
            turns = self._writer.turns(truth, frame, task.task_id, task.question)
        except FieldError as error:
            field = error.field.replace("ground_truth", data.ground_truth_key, 1)
            raise FieldError(field, error.reason, error.remedy, error.value) from None
        said = Transcript(turns=turns, kind=frame.kind, seen_size=(seen.width, seen.height))
        names = Data(train_files="-", transcript_key=options.key, ground_truth_key=data.ground_truth_key)
        check_transcript(task.model_copy(update={"transcript": said}), frame, names)
        self._count(truth)
        about = {"kind": frame.kind, "seen_size": [seen.width, seen.height]}
        return {**row.fields, options.key: list(turns), f"{options.key}{FRAME}": about}

    def _count(self, truth: GroundTruth) -> None:
        if truth.negative:
            self.negatives += 1
            return
        self.positives += 1
        self.from_ray += truth.pointing_keypoints is None

    def _leave_out(self, row: ReadRow, error: FieldError) -> None:
        self.left_out += 1
        if len(self.problems) < SHOWN:
            self.problems.append(RowProblem.of(error, str(row.file), row.line))
