"""Label Studio's JSON export: rectangles and keypoints in percent of the sides.

Rectangles are labelled `hand` and `target`, keypoints `base`, `tip`, `ray_start` and `ray_end`; the text area `name`
names the target. A task whose annotation is empty is a negative. `data` has `image` and perhaps `question`.
Of several annotations of a task the first counts; one that was cancelled does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from pointing.coordinates import Size
from pointing.data_rows import DatasetError
from pointing.formats.example import Example, checked, refused, size_of
from pointing.formats.yourefit import json_of
from pointing.ground_truth import read_ground_truth
from pointing.prompts import QUESTION
from schemas.row_problem import FieldError, RowProblem, shown
from schemas.task import GroundTruth, Point

BOXES = {"hand": "hand_bbox", "target": "obj_bbox"}


def read_label_studio(file: Path, folder: Path) -> Iterator[Example]:
    """Each annotated task. Raises DatasetError naming the task by its place in the list."""
    tasks = json_of(file)
    if not isinstance(tasks, list):
        raise DatasetError(f"{file}: holds a {type(tasks).__name__}; export as JSON, which is a list of tasks")
    for number, task in enumerate(cast("list[Any]", tasks), start=1):
        try:
            data = task["data"]
            image, question = data["image"], data.get("question") or QUESTION
            annotations = [each for each in task["annotations"] if not each.get("was_cancelled")]
            if not annotations:
                continue  # nobody has looked at it yet
            size = size_of(image, folder, file, number, "data.image")
            truth = read_ground_truth(truth_of(annotations[0]["result"], size), "annotations")
        except FieldError as error:
            raise refused(error, file, number) from error
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"cannot be read ({error!r})"
            problem = RowProblem(str(file), number, "task", shown(task), reason, "export it again as JSON")
            raise DatasetError(str(problem)) from error
        yield checked(Example(image, size, truth, question), file, number)


def truth_of(results: list[dict[str, Any]], size: Size) -> object:
    """The ground truth of an annotation's results, as the published format has it; "none" where they mark nothing.

    Raises FieldError, and KeyError, TypeError or ValueError for what Label Studio does not write.
    """
    value: dict[str, object] = {}
    points: dict[str, list[float]] = {}
    for result in results:
        kind, held = result["type"], result["value"]
        if kind == "rectanglelabels":
            (label,) = held["rectanglelabels"]
            if held.get("rotation"):
                raise FieldError("rotation", "is not 0", "draw the box upright", str(held["rotation"]))
            if label not in BOXES or BOXES[label] in value:
                raise FieldError("rectanglelabels", "is not one hand or one target", "leave one of each", shown(label))
            left, top = _pixel(held["x"], held["y"], size)
            right, bottom = _pixel(held["x"] + held["width"], held["y"] + held["height"], size)
            value[BOXES[label]] = [left, top, right, bottom]
        elif kind == "keypointlabels":
            (label,) = held["keypointlabels"]
            points[label] = list(_pixel(held["x"], held["y"], size))
        elif kind == "textarea" and result.get("from_name") == "name":
            value["obj_name"] = " ".join(held["text"])
    if "base" in points and "tip" in points:
        value["pointing_keypoints"] = [points["base"], points["tip"]]
    if "ray_start" in points and "ray_end" in points:
        value["pointing_ray"] = {"start": points["ray_start"], "end": points["ray_end"]}
    return value or "none"


def _pixel(x: float, y: float, size: Size) -> Point:
    return x * size.width / 100, y * size.height / 100


def write_label_studio(examples: Iterable[Example], out: TextIO) -> int:
    """Writes all examples as annotated tasks, which Label Studio imports; returns 0: every part has its place."""
    separator = "[\n"
    for number, example in enumerate(examples, start=1):
        task = {
            "id": number,
            "data": {"image": example.image, "question": example.question},
            "annotations": [{"result": list(_results(example.truth, example.size))}],
        }
        out.write(separator + json.dumps(task, ensure_ascii=False))
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")
    return 0


def _results(truth: GroundTruth, size: Size) -> Iterator[dict[str, object]]:
    whole = {"to_name": "image", "original_width": size.width, "original_height": size.height, "image_rotation": 0}
    for label, box in (("hand", truth.hand_bbox), ("target", truth.obj_bbox)):
        if box is not None:
            left, top = 100 * box[0] / size.width, 100 * box[1] / size.height
            width, height = 100 * (box[2] - box[0]) / size.width, 100 * (box[3] - box[1]) / size.height
            value = {"x": left, "y": top, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label]}
            yield {"type": "rectanglelabels", "from_name": "box", "value": value, **whole}
    finger, ray = truth.pointing_keypoints, truth.pointing_ray
    points = {"base": finger and finger[0], "tip": finger and finger[1]}
    points |= {"ray_start": ray and ray.start, "ray_end": ray and ray.end}
    for label, point in points.items():
        if point is not None:
            x, y = 100 * point[0] / size.width, 100 * point[1] / size.height
            value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}
            yield {"type": "keypointlabels", "from_name": "point", "value": value, **whole}
    if truth.obj_name is not None:
        yield {"type": "textarea", "from_name": "name", "to_name": "image", "value": {"text": [truth.obj_name]}}
