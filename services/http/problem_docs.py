"""What a service's HTTP contract says of the errors that an operation may answer."""

from __future__ import annotations

from typing import Any

from services.http.error_responses import MEDIA_TYPE

Responses = dict[int | str, dict[str, Any]]

_WORDS = {
    400: "a form that cannot be read",
    401: "no or wrong token",
    408: "not answered in time",
    413: "too large",
    415: "another content type than those above",
    422: "not a valid request",
    429: "too many requests at once; come back after Retry-After seconds",
    500: "there is no answer to this",
    503: "not ready, or a replica was lost: send it again",
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
}


def problems(*statuses: int) -> Responses:
    """The errors that an operation may answer."""
    return {
        status: {"description": _WORDS[status], "content": {MEDIA_TYPE: {"schema": _PROBLEM}}} for status in statuses
    }
