"""The scoring contract: the reward's rules, and what goes in and out of the reward service over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat

from schemas.task import Record

Side = Annotated[int, Field(ge=1, le=1_000_000)]  # pixels
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# The terms of the built-in reward that are kept for every trajectory, and that dynamic sampling may look at.
ScoreTerm = Literal[
    "hand_iou", "ray_cos", "kpt_score", "obj_iou", "stage2_format", "tool_count", "obj_box_count", "neg"
]
SCORE_TERMS: tuple[ScoreTerm, ...] = get_args(ScoreTerm)


class RewardRules(Record):
    """Weights, clamps and penalties of the geometric reward. The defaults are the published rules.

    `negative_max` is the most a clean reply to a negative task earns. The published code clamps it to 1, although its
    own scale runs to 10: with 1 every negative earns the same unless all four mistakes occur together.

    The last four fields close ways of earning reward without pointing well. They are off by default, which leaves the
    published numbers as they are.
    """

    hand_iou: Weight = 1.0
    ray_cos: Weight = 1.0
    kpt_score: Weight = 1.0
    obj_iou: Weight = 5.0
    stage2_format: Weight = 2.0
    box_share: Weight = 0.9  # of stage2_format, for a box in the tail; the rest is for a caption
    caption_share: Weight = 0.1
    no_box_penalty: Weight = 0.1  # factor when the tail has no box
    negative_penalty: Weight = 2.5  # for each kind of mark present in the reply to a negative
    negative_max: Weight = 1.0
    maximum: Weight = 10.0
    require_tool: bool = False  # without a tool call that counts, a positive earns 0
    require_valid_boxes: bool = False  # a box that leaves the image, is inverted or empty counts only against the reply
    ray_above_chance: bool = False  # ray_cos runs from -1 to 1, so that a ray of random direction earns 0 on average
    require_negative_answer: bool = False  # an answer without a word earns 0 on a negative


class FrameSpec(Record):
    """How the reply writes coordinates. Absent in a request: pixels of the original image.

    "pixels" are those of an image resized to `seen_size`; "thousandths" are of width and height. Sizes are (width,
    height).
    """

    kind: Literal["pixels", "thousandths"] = "pixels"
    original_size: tuple[Side, Side]
    seen_size: tuple[Side, Side] | None = None


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("an id is shown in answers and logs: printable characters only")
    return name


Id = Annotated[str, Field(max_length=256), AfterValidator(_printable)]


class ScoreItem(Record):
    """One reply to score. `ground_truth` is an object, a JSON string, or null for a negative task."""

    response: str
    ground_truth: dict[str, Any] | str | None = None
    id: Id | None = None
    frame: FrameSpec | None = None


class ScoreRequest(Record):
    """A batch of replies; answered in the same order."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "id": "a",
                            "response": "<answer>It is <|caption_start|>a cup<|caption_end|> "
                            "<|box_start|>[10, 10, 50, 50]<|box_end|></answer>",
                            "ground_truth": {"obj_bbox": [10, 10, 50, 60]},
                        }
                    ]
                }
            ]
        },
    )
    items: Annotated[tuple[ScoreItem, ...], Field(min_length=1)]


class ItemScore(Record):
    """The reward of one reply and its terms; a term that does not apply is absent."""

    id: str | None = None
    reward: FiniteFloat
    terms: dict[str, FiniteFloat]


class ScoreResponse(Record):
    """One entry for each item of the request, in its order."""

    scores: tuple[ItemScore, ...]


class ActiveReward(Record):
    """What a service scores with: the rules of the built-in reward, or else a function of one's own."""

    rules: RewardRules | None = None
    function: str | None = None
    function_kwargs: dict[str, Any] = Field(default_factory=dict)
