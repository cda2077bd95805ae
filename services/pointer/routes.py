"""The HTTP door of the pointer service, as a plain FastAPI application.

POST /v1/point  a photo and a question in, the answer out; with Accept: text/event-stream every stage as it comes
GET  /healthz   the process answers      GET /readyz  it can answer questions
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from schemas.config.pointer import PointerOptions
from schemas.config.rollout import sampling_of
from schemas.pointer import ConfidenceStage, DoneStage, FailedStage, PointAnswer, PointSample, Stage
from services.http.counts import Meter, NoMeter
from services.http.door import open_door
from services.http.problem_docs import problems
from services.pointer.engine_loop import EngineLoop, PlayingError, UnfitError
from services.pointer.stages import answer_of, sample_of, stages
from services.pointer.uploads import FORM, JSON, Uploaded, read_asked

EVENTS = "text/event-stream"
log = logging.getLogger("ray.serve.pointer")
_QUESTION: dict[str, Any] = {
    "question": {"type": "string", "maxLength": 2000},
    "samples": {"type": "integer", "minimum": 1},
    "temperature": {"type": "number", "minimum": 0, "maximum": 10},
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A photo (JPEG, PNG, WebP ...) and what is asked of it; all but the photo may be left out",
        "content": {
            kind: {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", **how}, **_QUESTION},
                }
            }
            for kind, how in ((JSON, {"contentEncoding": "base64"}), (FORM, {"format": "binary"}))
        },
    }
}


def build_api(options: PointerOptions, token: str | None, engine: EngineLoop, meter: Meter = NoMeter()) -> FastAPI:
    """The application. token: what callers must present; None only where `options` ask for none."""
    door = open_door(
        options,
        token,
        meter,
        title="PointVG-R pointer",
        description="Says what the hand in a photo points at. Errors are RFC 9457.",
        sizes={"/v1/point": options.max_body_bytes},
        ready=engine.check,
        ready_means="It can answer questions",
    )
    app = door.app

    @app.post(
        "/v1/point",
        summary="Ask what a photo's hand points at",
        dependencies=door.locked,
        response_model=PointAnswer,
        responses=problems(400, 401, 408, 413, 415, 422, 429, 500, 503),
        openapi_extra=BODY,
    )
    async def point(request: Request) -> Response:
        started = time.perf_counter()
        asked = await read_asked(request, options.max_image_pixels)
        if asked.question.samples > options.max_samples:
            raise HTTPException(413, f"{asked.question.samples} samples, at most {options.max_samples} per request")
        told = _told(engine, asked, started, meter)
        try:
            first = await anext(told)  # what cannot be asked is refused before an answer begins
        except UnfitError as error:
            raise RequestValidationError([{"loc": ("body",), "msg": str(error), "type": "unfit"}]) from None
        if EVENTS in request.headers.get("accept", ""):
            return StreamingResponse(_events(first, told), media_type=EVENTS, headers={"Cache-Control": "no-store"})
        stage = first
        async for stage in told:  # noqa: B007 (the last one is the answer)
            pass
        assert isinstance(stage, DoneStage)
        return Response(stage.answer.model_dump_json(), media_type=JSON)

    return app


async def _told(engine: EngineLoop, asked: Uploaded, started: float, meter: Meter) -> AsyncIterator[Stage]:
    question = asked.question.question or engine.spoken.question
    sampling = sampling_of(asked.question.samples, asked.question.temperature)
    ended: dict[int, PointSample] = {}
    try:
        async for told in engine.play(asked.image, question, asked.question.samples, sampling):
            for stage in stages(told):
                yield stage
            if told.ended_by is not None:
                ended[told.sample] = sample_of(told)
    except PlayingError:
        meter.failed("http")
        raise
    seconds = time.perf_counter() - started
    answer = answer_of(ended, question, asked.image.size, seconds)
    meter.scored("http", len(ended), seconds)
    yield ConfidenceStage(index=answer.best, share=answer.confidence)
    yield DoneStage(answer=answer)


async def _events(first: Stage, rest: AsyncIterator[Stage]) -> AsyncIterator[str]:
    yield _event(first)
    try:
        async for stage in rest:
            yield _event(stage)
    except PlayingError as error:
        log.error("%s", error, exc_info=error)
        yield _event(FailedStage(detail=error.public))


def _event(stage: Stage) -> str:
    return f"event: {stage.event}\ndata: {stage.model_dump_json()}\n\n"
