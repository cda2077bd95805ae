"""What the HTTP contract says beside its schemas: worked examples, computed by the reward in force, and the errors.

With a reward function of one's own, which is not called for this, the examples show the published rules.
"""

from __future__ import annotations

from typing import Any

from schemas.config.service import ServiceOptions
from schemas.scoring import FrameSpec, ScoreItem, ScoreRequest, ScoreResponse
from services.http.problem_docs import Responses, problems
from services.reward.evaluation import evaluate as evaluated
from services.reward.scoring import BuiltIn, answer, item_of
from services.reward.uploads import JSON, LINES

SCORED = ScoreRequest.model_validate(ScoreRequest.model_config["json_schema_extra"]["examples"][0])  # type: ignore
PREDICTIONS = ScoreRequest(
    items=(
        ScoreItem(
            id="a",
            response="<answer><|caption_start|>a cup<|caption_end|> <|box_start|>[500, 500, 750, 1000]<|box_end|>"
            "</answer>",
            ground_truth={"obj_bbox": [320, 240, 480, 480], "obj_name": "cup"},
            frame=FrameSpec(kind="thousandths", original_size=(640, 480)),
        ),
        ScoreItem(id="b", response="<answer>Nothing is pointed at.</answer>", ground_truth=None),
    )
)
EVALUATE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The prediction set: one document, or one item a line",
        "content": {
            JSON: {
                "schema": {"$ref": "#/components/schemas/ScoreRequest"},
                "example": PREDICTIONS.model_dump(mode="json", exclude_none=True),
            },
            **{
                kind: {
                    "schema": {"type": "string"},
                    "example": "\n".join(item.model_dump_json(exclude_none=True) for item in PREDICTIONS.items),
                }
                for kind in LINES
            },
        },
    }
}


def score(options: ServiceOptions) -> Responses:
    """Of POST /v1/score."""
    result = ScoreResponse(scores=answer(SCORED.items, BuiltIn(options.rules)))
    return _responses(result.model_dump(mode="json"), 401, 408, 413, 422, 429, 500, 503)


def evaluate(options: ServiceOptions) -> Responses:
    """Of POST /v1/evaluate."""
    report = evaluated([item_of(item) for item in PREDICTIONS.items], BuiltIn(options.rules))
    return _responses(report.model_dump(mode="json"), 401, 408, 413, 415, 422, 429, 500, 503)


def _responses(example: dict[str, Any], *statuses: int) -> Responses:
    return {200: {"content": {JSON: {"example": example}}}, **problems(*statuses)}
