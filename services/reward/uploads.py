"""Reads an uploaded prediction set, JSON or JSON Lines, as strictly as every other request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from schemas.scoring import ScoreItem, ScoreRequest
from services.http.error_responses import MAX_ERRORS, strict_json

JSON = "application/json"
LINES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines")


def read_upload(body: bytes, content_type: str) -> tuple[ScoreItem, ...]:
    """At least one item. JSON: {"items": [...]}, as for scoring. JSON Lines: one item a line.

    Raises RequestValidationError naming places in the body (lines from 1), HTTPException for another content type.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        return _read_document(body)
    if kind in LINES:
        return _read_lines(body)
    raise HTTPException(415, f"send the prediction set as {JSON} or as one of {', '.join(LINES)}")


def _read_document(body: bytes) -> tuple[ScoreItem, ...]:
    try:
        return ScoreRequest.model_validate(strict_json(body)).items
    except (ValidationError, json.JSONDecodeError) as error:
        raise RequestValidationError(_problems(error, ("body",))) from None


def _read_lines(body: bytes) -> tuple[ScoreItem, ...]:
    items: list[ScoreItem] = []
    wrong: list[dict[str, Any]] = []
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append(ScoreItem.model_validate(strict_json(line)))
        except (ValidationError, json.JSONDecodeError) as error:
            wrong += _problems(error, ("line", number))
            if len(wrong) >= MAX_ERRORS:
                break
    if not wrong and not items:
        wrong = [{"loc": ("body",), "msg": "no item: send one JSON object a line", "type": "too_short"}]
    if wrong:
        raise RequestValidationError(wrong)
    return tuple(items)


def _problems(error: ValidationError | json.JSONDecodeError, where: Sequence[str | int]) -> list[dict[str, Any]]:
    if isinstance(error, ValidationError):
        return [{**one, "loc": (*where, *one["loc"])} for one in error.errors(include_input=False, include_url=False)]
    return [{"loc": tuple(where), "msg": f"not JSON: {error.msg}", "type": "json_invalid"}]
