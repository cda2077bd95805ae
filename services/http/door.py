"""The part of an HTTP door that every service has: guard, errors, contract, and whether it lives and can answer.

GET /healthz   the process answers      GET /readyz  it can do its work
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import FastAPI, Security
from fastapi.params import Security as Locked
from fastapi.security import HTTPBearer

from schemas.config.service import Served
from services.http import error_responses
from services.http.counts import Meter
from services.http.docs_page import PATH as DOCS
from services.http.docs_page import add_docs
from services.http.guard import Guard
from services.http.problem_docs import problems

OPEN_PATHS = frozenset({"/healthz", "/readyz", DOCS})


@dataclass(frozen=True, slots=True)
class Door:
    """An application that has no operations yet; `locked` are the dependencies of those that need the token."""

    app: FastAPI
    locked: list[Locked]


def open_door(
    options: Served,
    token: str | None,
    meter: Meter,
    *,
    title: str,
    description: str,
    sizes: Mapping[str, int],
    ready: Callable[[], None],
    ready_means: str,
) -> Door:
    """The application of a service, to which its operations are then added.

    Raises ValueError where the token and `options.token_env` do not fit together.

    Args:
        token: what callers must present; None only where `options` ask for none.
        sizes: how many bytes a body may have, by path.
        ready: raises while the service cannot do its work.
        ready_means: what /readyz says, in the contract.
    """
    if (options.token_env is None) != (token is None):
        raise ValueError(f"token_env={options.token_env!r}, but a token was {'not ' * (token is None)}given")
    if token is not None and not token.strip():
        raise ValueError(f"the token in environment variable {options.token_env} is empty; set it to a secret")
    app = FastAPI(title=title, version="1", description=description, docs_url=None, redoc_url=None)
    app.router.route_class = error_responses.StrictRoute
    app.add_middleware(Guard, token=token, max_bytes={**sizes, "/openapi.json": 0}, open_paths=OPEN_PATHS, meter=meter)
    error_responses.install(app)
    add_docs(app, locked=token is not None)

    @app.get("/healthz", summary="The process answers")
    def healthz() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/readyz", summary=ready_means, responses=problems(500, 503))
    def readyz() -> dict[str, bool]:
        ready()
        return {"ready": True}

    # For the contract alone: Guard checks the token.
    return Door(app, [] if token is None else [Security(HTTPBearer(auto_error=False))])
