"""The HTTP door of the reward service, as a plain FastAPI application.

POST /v1/score     replies in, rewards and their terms out        GET /healthz   the process answers
GET  /v1/rewards   the rules in force                             GET /readyz    it can score
GET  /openapi.json the contract, with a worked example
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from schemas.scoring import RewardRules, ScoreItem, ScoreRequest, ScoreResponse
from schemas.service import ServiceOptions
from services.guard import Guard
from services.problems import StrictRoute, install
from services.scoring import answer

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
PROBE = ScoreItem(
    response="<answer><|caption_start|>a cup<|caption_end|> <|box_start|>[10, 10, 50, 50]<|box_end|></answer>",
    ground_truth={"obj_bbox": [10, 10, 50, 50]},
)
_PROBLEMS = {401: "no or wrong token", 413: "too large", 422: "not a valid request", 500: "a reward failed"}


def probe(rules: RewardRules) -> None:
    """Scores one reply whose outcome is known: raises when this process cannot score."""
    (result,) = answer([PROBE], rules)
    if result.terms["obj_iou"] != 1.0:
        raise RuntimeError(f"the probe's box equals the true one, but its IoU is {result.terms['obj_iou']}")


def build_api(options: ServiceOptions, token: str | None = None) -> FastAPI:
    """The application. token: what callers must present; None only where `options` ask for none."""
    if (options.token_env is None) != (token is None):
        raise ValueError(f"token_env={options.token_env!r}, but a token was {'not ' * (token is None)}given")
    if token is not None and not token.strip():
        raise ValueError(f"the token in environment variable {options.token_env} is empty; set it to a secret")
    rules = options.rules
    app = FastAPI(
        title="PointVG-R reward",
        version="1",
        description="Scores replies that name, box and point. A malformed reply gets a low score; errors are RFC 9457.",
        docs_url=None,
        redoc_url=None,
    )
    app.router.route_class = StrictRoute
    app.add_middleware(Guard, token=token, max_body_bytes=options.max_body_bytes, open_paths=OPEN_PATHS)
    install(app)

    @app.get("/healthz", summary="The process answers")
    def healthz() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/readyz", summary="It can score")
    def readyz() -> dict[str, bool]:
        probe(rules)
        return {"ready": True}

    @app.get("/v1/rewards", summary="The rules in force")
    def rewards() -> RewardRules:
        return rules

    @app.post("/v1/score", summary="Score a batch of replies", responses=_responses(rules))
    def score(request: ScoreRequest) -> ScoreResponse:
        if len(request.items) > options.max_items:
            raise HTTPException(413, f"{len(request.items)} items, at most {options.max_items} per request")
        return ScoreResponse(scores=answer(request.items, rules))

    return app


def _responses(rules: RewardRules) -> dict[int | str, dict[str, Any]]:
    example = ScoreRequest.model_validate(ScoreRequest.model_config["json_schema_extra"]["examples"][0])  # type: ignore
    worked = ScoreResponse(scores=answer(example.items, rules)).model_dump()
    problems: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": {"application/problem+json": {}}} for status, text in _PROBLEMS.items()
    }
    return {200: {"content": {"application/json": {"example": worked}}}, **problems}
