"""The geometric reward of a reply, as published, with every weight and clamp configurable.

    reply --grammar--> boxes, points, captions, calls --frame--> original pixels --> terms --> base --> reward

    base   = clamp(hand_iou + ray_cos + kpt_score + 5 obj_iou + 2 stage2_format, 0, 10)
    reward = clamp(base / max(1, tool calls) / boxes after the last call, 0, 10)    a tenth of base without such a box
    reward = clamp(10 - 2.5 for each kind of mark in the reply, 0, negative_max)    for a negative task

Where the ground truth lacks a part, its term is 0. It differs from the published code in three ways, each on purpose: a
term that is not finite is 0 (there, NaN counts as 1), so a number too large to compute with earns nothing; digits are
ASCII only; nothing raises. Numbers are read as float64. RewardRules can also close, one by one, the ways of earning
reward without pointing well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from pointing import geometry
from pointing.coordinates import Frame, Size
from pointing.geometry import Box, Segment, clamp
from pointing.grammar import Reply, answer_text, parse
from pointing.parts import RawTruth, Truth, predict, read_truth
from schemas.scoring import RewardRules

PUBLISHED = RewardRules()
_IDENTITY = Frame.identity()


class Score(NamedTuple):
    """A reward and the terms it is made of. Positives have all terms but `neg`, negatives have `neg` alone.

    >>> score("<answer>a cup <|box_start|>[0, 0, 10, 20]<|box_end|></answer>", {"obj_bbox": [0, 0, 10, 10]}).obj_iou
    0.5
    """

    reward: float
    hand_iou: float | None = None
    ray_cos: float | None = None
    kpt_score: float | None = None
    obj_iou: float | None = None
    stage2_format: float | None = None
    tool_count: float | None = None
    obj_box_count: float | None = None
    tool_penalty: float | None = None
    bbox_penalty: float | None = None
    base_score: float | None = None
    neg: float | None = None

    def terms(self) -> dict[str, float]:
        """The terms that apply, by name, without the reward."""
        return {name: value for name, value in zip(self._fields[1:], self[1:], strict=True) if value is not None}


def score(
    reply: str,
    truth: RawTruth,
    frame: Frame = _IDENTITY,
    rules: RewardRules = PUBLISHED,
) -> Score:
    """Scores a reply written in `frame` against ground truth in original pixels.

    See `read_truth` for what `truth` may be, and which of it is a negative. Never raises.
    """
    known = read_truth(truth)
    said = parse(reply)
    if known is None:
        if rules.require_negative_answer and not any(map(str.isalnum, answer_text(reply))):
            return Score(0.0, neg=0.0)
        return _score_negative(said, rules)
    return _score_positive(said, known, frame, rules)


def compute_score(reward_inputs: Sequence[Mapping[str, Any]], **kwargs: Any) -> list[dict[str, float]]:
    """The published reward function: one dictionary out for each in, in order; coordinates in original pixels.

    In: `response`, and `ground_truth` (see `score`). Out: `overall` and `reward`, and a positive's terms or `neg`.
    Keyword arguments override fields of RewardRules and are checked by it: `compute_score(inputs, negative_max=10)`.
    No content of `reward_inputs` raises: a response that is not a string counts as empty, an item that is not a
    dictionary as an empty reply to an empty positive.
    """
    rules = RewardRules(**kwargs) if kwargs else PUBLISHED
    return [_published_item(item, rules) for item in reward_inputs]


def _published_item(item: object, rules: RewardRules) -> dict[str, float]:
    content = cast("Mapping[str, Any]", item) if isinstance(item, Mapping) else {"ground_truth": {}}
    response = content.get("response")
    result = score(response if isinstance(response, str) else "", content.get("ground_truth"), _IDENTITY, rules)
    out = {"overall": result.reward, "reward": result.reward, **result.terms()}
    if result.stage2_format is not None:
        out["format"] = result.stage2_format
    return out


def _score_negative(said: Reply, rules: RewardRules) -> Score:
    marks = bool(said.rays) + bool(said.boxes) + bool(said.points) + bool(said.captions)
    neg = clamp(rules.maximum - rules.negative_penalty * marks, 0.0, rules.negative_max)
    return Score(neg, neg=neg)


def _score_positive(said: Reply, truth: Truth, frame: Frame, rules: RewardRules) -> Score:
    found = predict(said, frame)
    hand, target, boxes = found.hand, found.target, len(said.tail_boxes)
    calls = len(said.tool_calls) - said.tool_calls.count(None)
    any_box = boxes > 0
    if rules.require_valid_boxes:
        limits = frame.limits
        hand = hand if hand and _is_valid(said.boxes[0], limits) else None
        target = target if target and _is_valid(said.tail_boxes[-1], limits) else None
        any_box = any(_is_valid(box, limits) for box in said.tail_boxes)
    hand_iou = geometry.iou(hand, truth.hand) if hand and truth.hand else 0.0
    obj_iou = geometry.iou(target, truth.target) if target and truth.target else 0.0
    ray_cos = _ray_cos(found.ray, truth.ray, rules) if found.ray and truth.ray else 0.0
    kpt_score = _kpt_score(found.keypoints, truth) if found.keypoints else 0.0
    shares = (rules.box_share if any_box else 0.0) + (rules.caption_share if said.captions else 0.0)
    stage2_format = clamp(shares, 0.0, 1.0)
    total = (
        rules.hand_iou * hand_iou
        + rules.ray_cos * ray_cos
        + rules.kpt_score * kpt_score
        + rules.obj_iou * obj_iou
        + rules.stage2_format * stage2_format
    )
    base = clamp(total, 0.0, rules.maximum)
    without_tool = 0.0 if rules.require_tool else 1.0
    tool_penalty = 1.0 / calls if calls else without_tool
    bbox_penalty = 1.0 / boxes if any_box else rules.no_box_penalty
    return Score(
        clamp(base * tool_penalty * bbox_penalty, 0.0, rules.maximum),
        hand_iou,
        ray_cos,
        kpt_score,
        obj_iou,
        stage2_format,
        float(calls),
        float(boxes),
        tool_penalty,
        bbox_penalty,
        base,
    )


def _ray_cos(found: Segment, true: Segment, rules: RewardRules) -> float:
    between = geometry.angle(found, true)
    if between is None:
        return 0.0
    share = clamp(1.0 - between / math.pi, 0.0, 1.0)
    return 2.0 * share - 1.0 if rules.ray_above_chance else share


def _is_valid(box: Box, limits: Size) -> bool:
    """True for a box with an area, first corner upper left, inside an image of this size; NaN and infinity are not."""
    x1, y1, x2, y2 = box
    return 0.0 <= x1 < x2 <= limits.width and 0.0 <= y1 < y2 <= limits.height


def _kpt_score(found: Segment, truth: Truth) -> float:
    if truth.keypoints is None:
        return 0.0
    mean = (geometry.distance(found[0], truth.keypoints[0]) + geometry.distance(found[1], truth.keypoints[1])) / 2.0
    return clamp(1.0 - mean / truth.scale, 0.0, 1.0)
