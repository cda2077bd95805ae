"""Pictures of answers: each drawn over its photo, beside the truth where one is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from files.owned import writing_folder
from orchestrator.evaluation.answers import Answer
from orchestrator.evaluation.overlays import overlay
from pointing.drawing import open_image
from schemas.task import GroundTruth, Task
from services.reward.scoring import frame_of


def draw_answers(found: Sequence[Answer], tasks: Sequence[Task], folder: Path, by: str, *, overwrite: bool) -> None:
    """Writes a picture of each answer into a folder, in their order; `by` is the command, for who finds the folder.

    Raises ExistsError where something would be replaced.
    """
    with writing_folder(folder, by, overwrite=overwrite) as fresh:
        for number, (answer, task) in enumerate(zip(found, tasks, strict=True)):
            frame = frame_of(answer.frame.kind, answer.frame.original_size, answer.frame.seen_size)
            truth = None if task.ground_truth == GroundTruth() else task.ground_truth
            picture = overlay(open_image(answer.image), truth, answer.response, frame)
            picture.save(fresh / f"{number:05d}-{Path(answer.image).stem[:80]}.png")
