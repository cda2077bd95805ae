"""A Label Studio project for pointing: its labelling configuration, tasks with proposals, finished annotations.

    photos, proposals --> LABELS (XML), tasks --people, in Label Studio--> export --> examples, or why a row is none

What a machine proposes has the state "unconfirmed", and no annotation is read until a person has chosen another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from pointing.coordinates import Size
from pointing.data_rows import DatasetError
from pointing.drawing import ImageError
from pointing.formats.example import Example
from pointing.formats.label_studio import truth_of
from pointing.formats.yourefit import json_of
from pointing.ground_truth import read_ground_truth
from pointing.image_check import image_size
from pointing.prompts import QUESTION
from pointing.truth_check import check_truth
from schemas.row_problem import FieldError, RowProblem, shown
from schemas.task import Box, GroundTruth, Point, RaySegment

UNCONFIRMED, CONFIRMED, NOBODY = "unconfirmed", "confirmed", "nobody points"

LABELS = f"""<View>
  <Header value="$question"/>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <RectangleLabels name="box" toName="image">
    <Label value="hand" hotkey="1" background="#0a7d3c"/>
    <Label value="target" hotkey="2" background="#c2185b"/>
  </RectangleLabels>
  <KeyPointLabels name="point" toName="image" strokeWidth="4">
    <Label value="base" hotkey="3" background="#1565c0"/>
    <Label value="tip" hotkey="4" background="#00acc1"/>
    <Label value="ray_start" hotkey="5" background="#ef6c00"/>
    <Label value="ray_end" hotkey="6" background="#d32f2f"/>
  </KeyPointLabels>
  <Header value="What is the target called?" size="5"/>
  <TextArea name="name" toName="image" maxSubmissions="1" editable="true" placeholder="a cup"/>
  <Header value="Is all of this right? Choose, then submit." size="5"/>
  <Choices name="state" toName="image" choice="single" showInLine="true" required="true">
    <Choice value="{UNCONFIRMED}"/>
    <Choice value="{CONFIRMED}"/>
    <Choice value="{NOBODY}"/>
  </Choices>
</View>
"""


@dataclass(frozen=True, slots=True)
class HandProposal:
    """Where a hand seems to be, in pixels of the photo turned upright; `score` is from 0 to 1.

    >>> HandProposal((1, 2, 30, 40), base=(10, 20), tip=(12, 5), score=0.9).tip
    (12, 5)
    """

    box: Box
    base: Point
    tip: Point
    score: float


def task_of(photo: str, url: str, size: Size, proposal: HandProposal | None, by: str) -> dict[str, object]:
    """A task as Label Studio imports it: the photo, and a prediction that is marked unconfirmed, if there is one.

    Args:
        photo: the path that data files are to have for it.
        url: where Label Studio finds it.
        size: of the photo turned upright, in pixels.
        proposal: what a person is to look at first.
        by: what proposes, for people: name and version.
    """
    task: dict[str, object] = {"data": {"image": url, "photo": photo, "question": QUESTION}}
    if proposal is not None:
        results = [*_hand_results(proposal, size), _choice(UNCONFIRMED)]
        task["predictions"] = [{"model_version": by, "score": round(proposal.score, 4), "result": results}]
    return task


def local_url(folder: str, photo: str) -> str:
    """The URL of a photo that Label Studio serves from its disk, under the folder of that name."""
    return f"/data/local-files/?d={quote(f'{folder}/{photo}')}"


def _hand_results(proposal: HandProposal, size: Size) -> Iterator[dict[str, object]]:
    whole = {"to_name": "image", "original_width": size.width, "original_height": size.height, "image_rotation": 0}
    left, top, right, bottom = proposal.box
    box = {"x": 100 * left / size.width, "y": 100 * top / size.height, "rotation": 0, "rectanglelabels": ["hand"]}
    box |= {"width": 100 * (right - left) / size.width, "height": 100 * (bottom - top) / size.height}
    yield {"id": "hand", "type": "rectanglelabels", "from_name": "box", "value": box, **whole}
    for label, (x, y) in (("base", proposal.base), ("tip", proposal.tip)):
        value = {"x": 100 * x / size.width, "y": 100 * y / size.height, "width": 0.5, "keypointlabels": [label]}
        yield {"id": label, "type": "keypointlabels", "from_name": "point", "value": value, **whole}


def _choice(state: str) -> dict[str, object]:
    value = {"choices": [state]}
    return {"id": "state", "type": "choices", "from_name": "state", "to_name": "image", "value": value}


def read_confirmed(file: Path, folder: Path) -> Iterator[Example | RowProblem]:
    """Each task of a JSON export of such a project: an example, or why it is none yet.

    A positive needs a hand, a target, its name, and base and tip of the finger. Where no ray is marked it runs from the
    tip to the middle of the target. Raises DatasetError where the file is no export.
    """
    tasks = json_of(file)
    if not isinstance(tasks, list):
        raise DatasetError(f"{file}: holds a {type(tasks).__name__}; export as JSON, which is a list of tasks")
    for number, task in enumerate(cast("list[Any]", tasks), start=1):
        try:
            yield _example(task, folder)
        except FieldError as error:
            yield RowProblem.of(error, str(file), number)
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            reason = f"cannot be read ({type(error).__name__}: {error})"
            yield RowProblem(str(file), number, "task", shown(task), reason, "export it again as JSON")


def _example(task: Mapping[str, Any], folder: Path) -> Example:
    data = task["data"]
    photo, question = data["photo"], data.get("question") or QUESTION
    try:
        size = image_size(folder / photo)
    except ImageError as error:
        raise FieldError("data.photo", str(error), "correct it, or give --images-root", shown(photo)) from None
    finished = [each for each in task["annotations"] if not each.get("was_cancelled")]
    if not finished:
        raise FieldError("annotations", f"nobody has submitted {photo}", "annotate it in Label Studio")
    if len(finished) > 1:
        reason = f"{photo} has {len(finished)} annotations"
        raise FieldError("annotations", reason, "leave the right one and delete the others")
    results = finished[0]["result"]
    states = [choice for each in results if each["type"] == "choices" for choice in each["value"]["choices"]]
    if states not in ([CONFIRMED], [NOBODY]):
        reason = f"{photo} is not confirmed by a person"
        raise FieldError("state", reason, f"look at it and choose {CONFIRMED!r} or {NOBODY!r}", shown(states))
    value = truth_of(results, size)
    if states == [NOBODY]:
        if value != "none":
            raise FieldError("state", f"{photo}: nobody points, yet something is marked", "correct either of them")
        return Example(photo, size, read_ground_truth("none"), question)
    if not isinstance(value, dict):
        raise FieldError(
            "annotations", f"{photo} is confirmed, and nothing is marked", f"choose {NOBODY!r}, or mark it"
        )
    truth = _with_ray(read_ground_truth(value, "annotations"), photo)
    check_truth(truth, size, "annotations")
    return Example(photo, size, truth, question)


def _with_ray(truth: GroundTruth, photo: str) -> GroundTruth:
    finger, target = truth.pointing_keypoints, truth.obj_bbox
    needed = {"hand": truth.hand_bbox, "target": target, "name": truth.obj_name, "base and tip": finger}
    missing = [name for name, value in needed.items() if not value]
    if missing or finger is None or target is None:
        raise FieldError("annotations", f"{photo} has no {', no '.join(missing)}", "add it in Label Studio")
    if truth.pointing_ray is not None:
        return truth
    middle = ((target[0] + target[2]) / 2, (target[1] + target[3]) / 2)
    return truth.model_copy(update={"pointing_ray": RaySegment(start=finger[1], end=middle)})
