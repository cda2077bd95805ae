"""Strict reading of ground truth: what is accepted, and which field a message names."""

from __future__ import annotations

import json

import pytest

from pointing.ground_truth import FieldError, read_ground_truth
from pointing.parts import read_truth
from schemas.task import NEGATIVE

WHOLE = {
    "stage": 2,
    "hand_bbox": [97, 161, 137, 225],
    "pointing_keypoints": [[120, 180], [125.5, 165]],
    "pointing_ray": {"start": [125.5, 165], "end": [200, 0]},
    "obj_bbox": [136, 36, 206, 102],
    "obj_name": "cup",
}
NEGATIVES = [None, "none", " None\n", {"stage": 1, "hand_bbox": None}, {"stage": 1}, '{"stage": 1, "hand_bbox": null}']


@pytest.mark.parametrize("value", NEGATIVES)
def test_negatives(value: object) -> None:
    assert read_ground_truth(value) is NEGATIVE
    assert read_truth(value) is None  # type: ignore[arg-type]  # the reward's lenient reader agrees


@pytest.mark.parametrize("value", [WHOLE, json.dumps(WHOLE), json.dumps(json.dumps(WHOLE)), {**WHOLE, "stage": 2.0}])
def test_objects_and_json_in_one_or_two_layers(value: object) -> None:
    truth = read_ground_truth(value)
    assert truth.model_dump(mode="json") == WHOLE
    assert not truth.negative


@pytest.mark.parametrize("key", ["hand_bbox", "pointing_keypoints", "pointing_ray", "obj_bbox"])
def test_any_scored_part_is_enough(key: str) -> None:
    truth = read_ground_truth({key: WHOLE[key]})
    assert truth.model_dump(mode="json", exclude_none=True) == {key: WHOLE[key]}


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ({**WHOLE, "hand_bbox": [1, 2, 3]}, "gt.hand_bbox[3]", "required"),
        ({**WHOLE, "hand_bbox": []}, "gt.hand_bbox[0]", "required"),
        ({**WHOLE, "obj_bbox": [1, 2, float("nan"), 4]}, "gt.obj_bbox[2]", "finite"),
        ({**WHOLE, "obj_bbox": [1, 2, 3, float("inf")]}, "gt.obj_bbox[3]", "finite"),
        ({**WHOLE, "obj_bbox": [1, 2, 3, 10**400]}, "gt.obj_bbox[3]", "finite"),
        ({**WHOLE, "obj_bbox": [1, 2, 3, "4"]}, "gt.obj_bbox[3]", "'4'"),
        ({**WHOLE, "obj_bbox": [1, 2, 3, True]}, "gt.obj_bbox[3]", "True"),
        ({**WHOLE, "obj_bbox": {"x": 1}}, "gt.obj_bbox", "array"),
        ({**WHOLE, "pointing_ray": {"start": [1, 2]}}, "gt.pointing_ray.end", "required"),
        ({**WHOLE, "pointing_keypoints": [[1, 2], [3, None]]}, "gt.pointing_keypoints[1][1]", "None"),
        ({**WHOLE, "obj_name": 5}, "gt.obj_name", "string"),
        ({**WHOLE, "obj_name": b"cup"}, "gt.obj_name", "{'bytes':"),
        ({**WHOLE, "obj_box": [1, 2, 3, 4]}, "gt.obj_box", "unknown key; known are stage, hand_bbox"),
        ({"stage": 1, "obj_bbox": [1, 2, 3, 4]}, "gt", "nothing is pointed at, yet obj_bbox is given"),
        ({}, "gt", "none of hand_bbox"),
        ({"stage": 2, "obj_name": "cup"}, "gt", "none of hand_bbox"),
        ([1, 2], "gt", "give an object"),
        (5, "gt", "give an object"),
        ("", "gt", "neither JSON nor"),
        ("{broken", "gt", "neither JSON nor"),
        ("null", "gt", "write null"),
        ("[" * 100_000, "gt", "neither JSON nor"),
        ("9" * 5000, "gt", "neither JSON nor"),
    ],
)
def test_messages_name_the_field(value: object, field: str, reason: str) -> None:
    with pytest.raises(FieldError) as caught:
        read_ground_truth(value, "gt")
    assert caught.value.field == field
    assert reason in str(caught.value)
    if field == "gt" and value != {}:
        assert len(str(caught.value)) < 420
