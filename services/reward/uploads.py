"""Reads an uploaded prediction set, JSON or JSON Lines, as strictly as every other request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from schemas.scoring import ScoreItem, ScoreRequest
from services.http.error_responses import MAX_ERRORS, strict_json

JSON = "application/json"
LINES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines")


Place = tuple[str | int, ...]


class Upload(NamedTuple):
    """At least one item, and the place of each in the body, as error messages name it."""

    items: tuple[ScoreItem, ...]
    places: tuple[Place, ...]


def item_place(number: int) -> Place:
    """Of an item of a JSON document."""
    return "body", "items", number


def read_upload(body: bytes, content_type: str) -> Upload:
    """Reads a body. JSON: {"items": [...]}, as for scoring. JSON Lines: one item a line.

    Raises RequestValidationError naming places in the body (lines from 1), HTTPException for another content type.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        return _read_document(body)
    if kind in LINES:
        return _read_lines(body)
    raise HTTPException(415, f"send the prediction set as {JSON} or as one of {', '.join(LINES)}")


def _read_document(body: bytes) -> Upload:
    try:
        items = ScoreRequest.model_validate(strict_json(body)).items
        return Upload(items, tuple(map(item_place, range(len(items)))))
    except (ValidationError, json.JSONDecodeError) as error:
        raise RequestValidationError(_problems(error, ("body",))) from None


def _read_lines(body: bytes) -> Upload:
    items: list[ScoreItem] = []
    places: list[Place] = []
    wrong: list[dict[str, Any]] = []
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append(ScoreItem.model_validate(strict_json(line)))
            places.append(("line", number))
        except (ValidationError, json.JSONDecodeError) as error:
            wrong += _problems(error, ("line", number))
            if len(wrong) >= MAX_ERRORS:
                break
    if not wrong and not items:
        wrong = [{"loc": ("body",), "msg": "no item: send one JSON object a line", "type": "too_short"}]
    if wrong:
        raise RequestValidationError(wrong)
    return Upload(tuple(items), tuple(places))


def _problems(error: ValidationError | json.JSONDecodeError, where: Sequence[str | int]) -> list[dict[str, Any]]:
    if isinstance(error, ValidationError):
        return [{**one, "loc": (*where, *one["loc"])} for one in error.errors(include_input=False, include_url=False)]
    return [{"loc": tuple(where), "msg": f"not JSON: {error.msg}", "type": "json_invalid"}]
