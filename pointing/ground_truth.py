"""Strict reading of ground truth at load time. (The reward reads leniently: pointing/parts.py.)"""

from __future__ import annotations

import json
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.row_problem import FieldError, shown
from schemas.task import NEGATIVE, GroundTruth

SCORED = ("hand_bbox", "pointing_keypoints", "pointing_ray", "obj_bbox")


def read_ground_truth(value: object, field: str = "ground_truth") -> GroundTruth:
    """Ground truth given as an object with the published keys, or as its JSON.

    Negatives are null, the string "none" in any case, and stage 1 with hand_bbox absent or null. A positive may know
    only some parts, but at least one that is scored. Raises FieldError naming the part.

    >>> read_ground_truth('{"obj_bbox": [1, 2, 3, 4]}').obj_bbox
    (1.0, 2.0, 3.0, 4.0)
    """
    truth = truth_or_errors(value, field)
    if isinstance(truth, GroundTruth):
        return truth
    raise truth[0]


def truth_or_errors(value: object, field: str = "ground_truth") -> GroundTruth | tuple[FieldError, ...]:
    """The same, or everything that is wrong with it, in the order of the parts. Raises nothing."""
    try:
        value = _decoded(value, field)
    except FieldError as error:
        return (error,)
    if value is None:
        return NEGATIVE
    if not isinstance(value, dict):
        remedy = "give an object with the published keys, or null for a negative"
        return (FieldError(field, "is no ground truth", remedy, shown(value)),)
    value = cast("dict[str, Any]", value)
    stage = value.get("stage")
    if isinstance(stage, float) and stage.is_integer():  # a column of numbers with gaps comes as floats
        value = {**value, "stage": int(stage)}
    try:
        # Through JSON, because strict checking takes lists for tuples only there; it refuses "10" and true as numbers.
        truth = GroundTruth.model_validate_json(json.dumps(value, default=_not_json), strict=True)
    except ValidationError as error:
        return _field_errors(error, field)
    given = [name for name in (*SCORED, "obj_name") if value.get(name) is not None]
    if truth.negative:
        if given:
            reason = f"stage 1 without hand_bbox says that nothing is pointed at, yet {given[0]} is given"
            return (FieldError(field, reason, "give hand_bbox, or take the rest out"),)
        return NEGATIVE
    if not set(given) & set(SCORED):
        return (FieldError(field, f"has none of {', '.join(SCORED)}", 'write null or "none" for a negative'),)
    return truth


def _not_json(value: object) -> dict[str, str]:
    return {type(value).__name__: repr(value)}  # an object, which no field takes: the message then shows it


def _decoded(value: object, field: str) -> object:
    """The value behind up to two layers of JSON text; None for the "none" of a negative."""
    for _ in range(2):
        if not isinstance(value, str):
            return value
        if value.strip().lower() == "none":
            return None
        try:
            decoded: object = json.loads(value)
        except (ValueError, RecursionError) as error:
            remedy = "write the object, or its JSON"
            raise FieldError(field, f'is neither JSON nor "none" ({error})', remedy, shown(value)) from error
        if decoded is None:
            raise FieldError(field, "is the text 'null', which scores as a positive", 'write null or "none"')
        value = decoded
    return value


def _field_errors(error: ValidationError, field: str) -> tuple[FieldError, ...]:
    return tuple(_field_error(details, field) for details in error.errors(include_url=False))


def _field_error(details: ErrorDetails, field: str) -> FieldError:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in details["loc"])
    reason, value = details["msg"], shown(details["input"])
    if details["type"] == "extra_forbidden":
        reason, value = f"unknown key; known are {', '.join(GroundTruth.model_fields)}", ""
    elif details["type"] in ("json_invalid", "missing"):
        value = ""
    return FieldError(field + path, reason, "correct it", value)
