"""What Serve's HTTP proxy itself answers, as problem details: it answers in plain text where no replica does.

    too many requests waiting   429   Retry-After is Serve's own (backpressure_config)
    not answered in time        408
    a replica died meanwhile    503   (a bare 500 from Serve)
    the service is not up       503   (a 404 from Serve: no application has this route)

Serve calls `middlewares` in each proxy's process if the environment that Ray was started with names it: PROXY_ENV.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.http.error_responses import problem

PROXY_ENV = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "services.http.proxy.middlewares"}
RETRY_AFTER = {"retry-after": "1"}
OWN_PATHS = "/-/"  # Serve's own pages, for operators


class ProxyProblems:
    """ASGI middleware of the proxy. Answers of the application, which are never plain text, pass unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OWN_PATHS):
            await self.app(scope, receive, send)
            return
        answered = False
        instead: Message | None = None

        async def checked(message: Message) -> None:
            nonlocal answered, instead
            if message["type"] == "http.response.start":
                if _is_serves_own(message):
                    instead = message
                answered = instead is None
            if instead is None:
                await send(message)

        await self.app(scope, receive, checked)
        if not answered:
            await _translate(instead)(scope, receive, send)


def _is_serves_own(start: Message) -> bool:
    kind = Headers(raw=start["headers"]).get("content-type", "")
    return start["status"] >= 400 and kind.startswith("text/plain")


def _translate(start: Message | None) -> ASGIApp:
    """The problem for what Serve began to answer, or for no answer at all."""
    status = 500 if start is None else int(start["status"])
    headers = Headers(raw=start["headers"] if start is not None else [])
    kept = {name: headers[name] for name in ("retry-after", "x-request-id") if name in headers}
    if status == 429:
        return problem(429, "too many requests are waiting; come back later", RETRY_AFTER | kept)
    if status == 408:
        return problem(408, "not answered in time; send fewer items per request", kept)
    if status == 404:
        return problem(503, "the service is starting or stopping; come back later", RETRY_AFTER | kept)
    return problem(503, "the replica at work on this was lost; send it again", RETRY_AFTER | kept)


def middlewares() -> list[Middleware]:
    """For Serve's proxy."""
    return [Middleware(ProxyProblems)]
