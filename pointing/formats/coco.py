"""COCO: boxes, and keypoints of the hand.

The hand is an annotation of the category "hand"; its keypoints, by the names that the category gives them, are `base`
and `tip` of the finger and `ray_start` and `ray_end`, each optional. The target is the one annotation of any other
category, which names it. An image without annotations is a negative. `question` of an image is kept.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from pointing.data_rows import DatasetError
from pointing.formats.example import Example, checked, refused, size_of
from pointing.formats.yourefit import json_of
from pointing.ground_truth import read_ground_truth
from pointing.prompts import QUESTION
from schemas.row_problem import FieldError, RowProblem, shown
from schemas.task import Box, GroundTruth, Point

HAND = "hand"
KEYPOINTS = ("base", "tip", "ray_start", "ray_end")
SEEN = 2  # visibility of a keypoint that is labelled and visible


def read_coco(file: Path, folder: Path) -> Iterator[Example]:
    """Each image, in the order of the file. Raises DatasetError naming the image by its place in `images`."""
    whole = cast("dict[str, Any]", json_of(file))
    try:
        images: list[dict[str, Any]] = whole["images"]
        categories = {each["id"]: each for each in whole["categories"]}
        of_image: defaultdict[object, list[dict[str, Any]]] = defaultdict(list)
        for annotation in whole["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{file}: no COCO file ({error}); it has images, annotations and categories") from error
    for number, image in enumerate(images, start=1):
        try:
            name, annotations = image["file_name"], of_image[image["id"]]
            value = _truth(annotations, categories)
            truth = read_ground_truth(value, "annotations")
        except FieldError as error:
            raise refused(error, file, number) from error
        except (KeyError, TypeError, ValueError, IndexError) as error:
            problem = RowProblem(str(file), number, "images", shown(image), f"cannot be read ({error!r})", "correct it")
            raise DatasetError(str(problem)) from error
        size = size_of(name, folder, file, number, "file_name")
        yield checked(Example(name, size, truth, image.get("question") or QUESTION), file, number)


def _truth(annotations: list[dict[str, Any]], categories: dict[object, dict[str, Any]]) -> object:
    """The ground truth of an image's annotations, as the published format has it."""
    if not annotations:
        return "none"
    value: dict[str, object] = {}
    for annotation in annotations:
        category = categories[annotation["category_id"]]
        x, y, width, height = annotation["bbox"]
        part = "hand_bbox" if category["name"] == HAND else "obj_bbox"
        if part in value:
            what = "hand" if part == "hand_bbox" else "target"
            raise FieldError("annotations", f"has more than one {what}", "leave one hand and one target", "")
        value[part] = [x, y, x + width, y + height]
        if part == "obj_bbox":
            value["obj_name"] = category["name"]
            continue
        points = _points(annotation.get("keypoints") or [], category.get("keypoints") or [])
        if "base" in points and "tip" in points:
            value["pointing_keypoints"] = [points["base"], points["tip"]]
        if "ray_start" in points and "ray_end" in points:
            value["pointing_ray"] = {"start": points["ray_start"], "end": points["ray_end"]}
    return value


def _points(flat: list[float], names: list[str]) -> dict[str, list[float]]:
    """Keypoints that are labelled, by name."""
    return {name: flat[3 * n : 3 * n + 2] for n, name in enumerate(names) if len(flat) > 3 * n + 2 and flat[3 * n + 2]}


def write_coco(examples: Iterable[Example], out: TextIO) -> int:
    """Writes all examples; returns how many have parts that COCO has no place for: a target without a name is "object".

    A ray or a finger without a hand box has none, and is left out.
    """
    images: list[object] = []
    annotations: list[object] = []
    names: dict[str, int] = {HAND: 1}
    lost = 0
    for number, example in enumerate(examples, start=1):
        truth, size = example.truth, example.size
        about = {"id": number, "file_name": example.image, "width": size.width, "height": size.height}
        images.append({**about, "question": example.question})
        if truth.hand_bbox is not None:
            annotations.append(_annotation(len(annotations) + 1, number, 1, truth.hand_bbox, _keypoints(truth)))
        elif truth.pointing_ray is not None or truth.pointing_keypoints is not None:
            lost += 1
        if truth.obj_bbox is not None:
            category = names.setdefault(truth.obj_name or "object", len(names) + 1)
            annotations.append(_annotation(len(annotations) + 1, number, category, truth.obj_bbox, []))
    categories = [{"id": n, "name": name, **({"keypoints": KEYPOINTS} if n == 1 else {})} for name, n in names.items()]
    json.dump({"images": images, "annotations": annotations, "categories": categories}, out, ensure_ascii=False)
    return lost


def _annotation(number: int, image: int, category: int, box: Box, keypoints: list[float]) -> dict[str, object]:
    x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
    made: dict[str, object] = {"id": number, "image_id": image, "category_id": category, "iscrowd": 0}
    made |= {"bbox": [x, y, width, height], "area": width * height}
    if keypoints:
        made |= {"keypoints": keypoints, "num_keypoints": sum(flag > 0 for flag in keypoints[2::3])}
    return made


def _keypoints(truth: GroundTruth) -> list[float]:
    finger, ray = truth.pointing_keypoints, truth.pointing_ray
    points: list[Point | None] = [*(finger or (None, None)), ray and ray.start, ray and ray.end]
    if not any(points):
        return []
    return [value for point in points for value in ((*point, SEEN) if point else (0, 0, 0))]
