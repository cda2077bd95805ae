"""What every HTTP request passes before any route: token, body limit, request id, one log line."""

from __future__ import annotations

import hmac
import logging
import time
import uuid
from collections.abc import Container, Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.http.counts import Meter
from services.http.error_responses import problem

UNLISTED = 64 * 1024
log = logging.getLogger("ray.serve.reward")  # a child of the logger whose lines Serve keeps per replica


class Guard:
    """ASGI middleware. A request without the right bearer token is answered before its body is read.

    token: None lets everyone in. open_paths: paths that need no token. max_bytes: how long the body of a request to
    each path may be, 64 KiB where none is given. Bytes are counted as they arrive.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, max_bytes: Mapping[str, int], open_paths: Container[str], meter: Meter
    ) -> None:
        self.app = app
        self.token = None if token is None else token.encode()
        self.max_bytes = max_bytes
        self.open_paths = open_paths
        self.meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        limit = self.max_bytes.get(path, UNLISTED)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        started, status, received = time.perf_counter(), 500, 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, _too_large(limit))
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._refusal(path, headers, limit)
        try:
            if refusal is None:
                await self.app(scope, counted, noted)
            else:
                await refusal(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - started
            known = path in self.max_bytes or path in self.open_paths
            self.meter.request(path if known else "other", status, seconds)
            log.info(
                "%s %r status=%d bytes=%d ms=%.1f request_id=%s",
                *(scope["method"], path[:100], status, received, seconds * 1e3, request_id),
            )

    def _refusal(self, path: str, headers: dict[bytes, bytes], limit: int) -> ASGIApp | None:
        if self.token is not None and path not in self.open_paths and not self._admitted(headers):
            detail = "send the service's token as 'Authorization: Bearer TOKEN'; /docs says how to call it"
            return problem(401, detail, {"WWW-Authenticate": "Bearer"})
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit():
            return problem(400, "Content-Length is not a number")
        return problem(413, _too_large(limit)) if int(declared[:20]) > limit else None

    def _admitted(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        assert self.token is not None
        return hmac.compare_digest(given.strip(), self.token) and scheme.lower() == b"bearer"


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit} bytes; send fewer items per request"


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The caller's X-Request-ID if it is short and plain, else a new one: it goes into the log."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    plain = given.isascii() and given.replace("-", "").replace("_", "").isalnum()
    return given if plain and len(given) <= 64 else uuid.uuid4().hex
