"""The HTTP door of the reward service, as a plain FastAPI application.

POST /v1/score     replies in, rewards and their terms out          GET /healthz   the process answers
POST /v1/evaluate  a prediction set in, metrics with intervals out  GET /readyz    it can score
GET  /v1/rewards   the reward in force                              GET /openapi.json  the contract, with examples
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from pointing.ground_truth import read_ground_truth
from schemas.config.service import ServiceOptions
from schemas.evaluation import EvaluationReport
from schemas.row_problem import FieldError
from schemas.scoring import ActiveReward, ScoreItem, ScoreRequest, ScoreResponse
from services.http.counts import Meter, NoMeter
from services.http.door import open_door
from services.http.problem_docs import problems
from services.reward import examples
from services.reward.custom import open_reward
from services.reward.evaluation import CONFIDENCE, evaluate
from services.reward.scoring import Reward, ScoringError, answer, item_of
from services.reward.uploads import Place, item_place, read_upload

T = TypeVar("T")


def build_api(
    options: ServiceOptions, token: str | None = None, reward: Reward | None = None, meter: Meter = NoMeter()
) -> FastAPI:
    """The application. token: what callers must present; None only where `options` ask for none.

    reward: what to score with; by default opened here from `options`.
    """
    scorer = open_reward(options) if reward is None else reward
    door = open_door(
        options,
        token,
        meter,
        title="PointVG-R reward",
        description="Scores replies that name, box and point. A malformed reply gets a low score; errors are RFC 9457.",
        sizes={
            "/v1/score": options.max_body_bytes,
            "/v1/evaluate": options.max_evaluation_bytes,
            "/v1/rewards": 0,
        },
        ready=scorer.check,
        ready_means="It can score",
    )
    app, locked = door.app, door.locked

    @app.get("/v1/rewards", summary="The reward in force", dependencies=locked, responses=problems(401, 429, 503))
    def rewards() -> ActiveReward:
        return active(options)

    @app.post("/v1/score", summary="Score a batch of replies", dependencies=locked, responses=examples.score(options))
    def score(request: ScoreRequest) -> ScoreResponse:
        _check_count(len(request.items), options.max_items)
        if options.function is None:  # one's own function has its own ground truth
            _check_truth(request.items, [item_place(number) for number in range(len(request.items))])
        return ScoreResponse(scores=_metered(len(request.items), lambda: answer(request.items, scorer), meter))

    @app.post(
        "/v1/evaluate",
        summary="Metrics of a whole prediction set",
        dependencies=locked,
        responses=examples.evaluate(options),
        openapi_extra=examples.EVALUATE_BODY,
    )
    async def evaluation(
        request: Request,
        confidence: Annotated[float, Query(ge=0.5, le=0.999, description="of the intervals")] = CONFIDENCE,
    ) -> EvaluationReport:
        body = await request.body()
        content_type = request.headers.get("content-type", "")

        def work() -> EvaluationReport:
            given = read_upload(body, content_type)
            _check_count(len(given.items), options.max_evaluation_items)
            if options.function is None:
                _check_truth(given.items, given.places)
            known = [item_of(item) for item in given.items]
            return _metered(len(known), lambda: evaluate(known, scorer, confidence), meter)

        return await run_in_threadpool(work)

    return app


def active(options: ServiceOptions) -> ActiveReward:
    """The reward that `options` put in force."""
    if options.function is None:
        return ActiveReward(rules=options.rules)
    return ActiveReward(function=options.function, function_kwargs=options.function_kwargs)


def _check_count(items: int, limit: int) -> None:
    if items > limit:
        raise HTTPException(413, f"{items} items, at most {limit} per request")


def _check_truth(items: Sequence[ScoreItem], places: Sequence[Place]) -> None:
    """Refuses ground truth that would score 0 by mistake: an unknown key, a box of three numbers, no part at all."""
    errors: list[dict[str, Any]] = []
    for item, start in zip(items, places, strict=True):
        try:
            read_ground_truth(item.ground_truth)
        except FieldError as error:
            place = (*start, *error.field.replace("[", ".").replace("]", "").split("."))
            got = f", got {error.value}" if error.value else ""
            errors.append({"loc": place, "msg": f"{error.reason}{got}; {error.remedy}", "type": "ground_truth"})
    if errors:
        raise RequestValidationError(errors)


def _metered(items: int, work: Callable[[], T], meter: Meter) -> T:
    started = time.perf_counter()
    try:
        done = work()
    except ScoringError:
        meter.failed("http")
        raise
    meter.scored("http", items, time.perf_counter() - started)
    return done
