"""Errors over HTTP as problem details (RFC 9457): no traceback, no input, nothing that JSON cannot hold."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any, NoReturn

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from services.http.not_answered import NotAnsweredError

log = logging.getLogger("ray.serve.reward")
MAX_ERRORS = 10
MAX_TEXT = 200
MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """A problem-details response; `more` adds members to it."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    # ASCII: names in a request may hold halves of surrogate pairs, which UTF-8 cannot.
    return Response(json.dumps(body), status, headers, media_type=MEDIA_TYPE)


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise json.JSONDecodeError("a number is too large for a float", text[:MAX_TEXT], 0)
    return value


def strict_json(text: bytes) -> Any:
    """JSON by the letter: NaN, Infinity and numbers that overflow are refused wherever they stand.

    Raises JSONDecodeError for whatever cannot be read: other encodings and JSON nested too deeply too.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
    except UnicodeDecodeError:
        raise json.JSONDecodeError("not UTF-8", "", 0) from None
    except ValueError:
        raise json.JSONDecodeError("a number of too many digits", "", 0) from None


class _StrictRequest(Request):
    """Reads its body with `strict_json`."""

    async def json(self) -> Any:
        return strict_json(await self.body())


class StrictRoute(APIRoute):
    """A route that reads its body with `_StrictRequest`."""

    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


def _place(part: object) -> object:
    return part if isinstance(part, int) else str(part)[:MAX_TEXT]


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    # Only place, message and type: `input` and `ctx` would echo what was sent, NaN included.
    listed = [{"loc": [_place(p) for p in e["loc"]], "msg": e["msg"][:MAX_TEXT], "type": e["type"]} for e in found]
    return problem(422, f"{len(found)} error(s) in the request", errors=listed[:MAX_ERRORS])


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


async def _not_answered(request: Request, error: Exception) -> Response:
    log.error("%s request_id=%s", error, request.state.request_id, exc_info=error)
    assert isinstance(error, NotAnsweredError)
    return problem(500, error.public)


async def _unexpected(_: Request, error: Exception) -> Response:
    return problem(500, "unexpected error; see the service's log")


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem-details response."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(NotAnsweredError, _not_answered)
    app.add_exception_handler(Exception, _unexpected)
