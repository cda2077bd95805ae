"""A Label Studio project: proposals are unconfirmed, and only what a person has finished is read back."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pointing.coordinates import Size
from pointing.data_rows import DatasetError
from pointing.formats.example import Example
from pointing.formats.label_studio_project import LABELS, HandProposal, local_url, read_confirmed, task_of
from schemas.row_problem import RowProblem

SIZE = Size(200, 100)
HAND = HandProposal((20, 30, 60, 70), base=(40, 60), tip=(50, 40), score=0.9)
TASK: Any = task_of("a b.png", local_url("photos", "a b.png"), SIZE, HAND, "mediapipe")


def state(choice: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": "state", "to_name": "image", "value": {"choices": [choice]}}


TARGET = {
    "type": "rectanglelabels",
    "from_name": "box",
    "value": {"x": 60, "y": 10, "width": 20, "height": 30, "rotation": 0, "rectanglelabels": ["target"]},
}
NAME = {"type": "textarea", "from_name": "name", "to_name": "image", "value": {"text": ["a cup"]}}
HAND_RESULTS: list[Any] = TASK["predictions"][0]["result"][:3]
WHOLE: list[Any] = [*HAND_RESULTS, TARGET, NAME, state("confirmed")]


def read(folder: Path, *annotations: Any, photo: str = "a b.png") -> Example | RowProblem:
    Image.new("RGB", (200, 100)).save(folder / "a b.png")
    task = {"data": TASK["data"] | {"photo": photo}, "annotations": list(annotations)}
    (folder / "e.json").write_text(json.dumps([task]))
    (found,) = read_confirmed(folder / "e.json", folder)
    return found


def test_the_configuration_has_a_control_for_every_part_of_a_proposal() -> None:
    tree = ElementTree.fromstring(LABELS)
    controls = {each.get("name"): {child.get("value") for child in each} for each in tree if each.get("toName")}
    results = TASK["predictions"][0]["result"]
    for result in results:
        (labels,) = [held for held in result["value"].values() if isinstance(held, list)]
        assert set(labels) <= controls[result["from_name"]]
    assert results[-1]["value"] == {"choices": ["unconfirmed"]}
    assert TASK["data"]["image"] == "/data/local-files/?d=photos/a%20b.png"
    assert "predictions" not in task_of("a.png", "u", SIZE, None, "m")


def test_a_confirmed_annotation_is_an_example_by_hand(tmp_path: Path) -> None:
    found = read(tmp_path, {"result": WHOLE})
    assert isinstance(found, Example)
    truth = found.truth
    assert truth.hand_bbox == pytest.approx((20, 30, 60, 70))
    assert truth.obj_bbox == pytest.approx((120, 10, 160, 40))
    assert truth.obj_name == "a cup"
    assert truth.pointing_ray is not None
    assert truth.pointing_ray.start == pytest.approx((50, 40))
    assert truth.pointing_ray.end == pytest.approx((140, 25))  # the middle of the target


def test_a_ray_that_is_marked_is_kept_and_nobody_points_is_a_negative(tmp_path: Path) -> None:
    ends = [
        {"type": "keypointlabels", "value": {"x": x, "y": y, "keypointlabels": [label]}}
        for label, x, y in (("ray_start", 26, 41), ("ray_end", 75, 20))
    ]
    found = read(tmp_path, {"result": [*WHOLE, *ends]})
    assert isinstance(found, Example)
    assert found.truth.pointing_ray is not None
    assert found.truth.pointing_ray.end == pytest.approx((150, 20))
    found = read(tmp_path, {"result": [state("nobody points")]}, {"was_cancelled": True, "result": []})
    assert isinstance(found, Example)
    assert found.truth.negative


Change = Callable[[], list[Any]]
UNFINISHED: list[tuple[str, Change, str]] = [
    ("nobody looked", list, "annotations: nobody has submitted a b.png"),
    ("cancelled", lambda: [{"was_cancelled": True, "result": WHOLE}], "nobody has submitted"),
    ("the proposal itself", lambda: [{"result": TASK["predictions"][0]["result"]}], "state=['unconfirmed']"),
    ("no state", lambda: [{"result": WHOLE[:-1]}], "state=[]: a b.png is not confirmed by a person"),
    ("both states", lambda: [{"result": [*WHOLE, state("nobody points")]}], "is not confirmed"),
    ("two people", lambda: [{"result": WHOLE}, {"result": WHOLE}], "has 2 annotations"),
    ("no hand", lambda: [{"result": WHOLE[1:]}], "a b.png has no hand"),
    ("no tip", lambda: [{"result": [*WHOLE[:2], *WHOLE[3:]]}], "has no base and tip"),
    ("no target, no name", lambda: [{"result": [*HAND_RESULTS, WHOLE[-1]]}], "has no target, no name"),
    ("nothing", lambda: [{"result": [WHOLE[-1]]}], "is confirmed, and nothing is marked"),
    ("marks of nobody", lambda: [{"result": [*WHOLE[:-1], state("nobody points")]}], "yet something is marked"),
    ("two targets", lambda: [{"result": [*WHOLE, TARGET]}], "is not one hand or one target"),
    (
        "a box turned",
        lambda: [{"result": [*WHOLE, TARGET | {"value": TARGET["value"] | {"rotation": 9}}]}],  # type: ignore[operator]
        "draw the box upright",
    ),
    ("broken", lambda: [{"result": [{"type": "rectanglelabels"}, state("confirmed")]}], "cannot be read (KeyError"),
]


@pytest.mark.parametrize(("name", "annotations", "said"), UNFINISHED, ids=[name for name, _, _ in UNFINISHED])
def test_what_is_unfinished_is_named(tmp_path: Path, name: str, annotations: Change, said: str) -> None:
    found = read(tmp_path, *annotations())
    assert isinstance(found, RowProblem)
    assert str(found).startswith(f"{tmp_path / 'e.json'}:1: ")
    assert said in str(found)


def test_a_photo_that_is_gone_and_a_file_that_is_no_export(tmp_path: Path) -> None:
    found = read(tmp_path, {"result": WHOLE}, photo="gone.png")
    assert "data.photo='gone.png'" in str(found)
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(DatasetError, match="export as JSON, which is a list of tasks"):
        list(read_confirmed(tmp_path / "e.json", tmp_path))
