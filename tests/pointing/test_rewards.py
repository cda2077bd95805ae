"""The reward: every term by hand, every rule of the published one, a slow oracle, and hostile input."""

import gc
import json
import math
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pointing.coordinates import FAMILIES, Frame, Size, fit_to_grid
from pointing.prompts import transcript
from pointing.rewards import PUBLISHED, Score, compute_score, score
from schemas.scoring import RewardRules
from schemas.task import NEGATIVE, GroundTruth, RaySegment

TRUTH = {
    "stage": 2,
    "hand_bbox": [10, 10, 40, 50],
    "pointing_keypoints": [[20, 20], [30, 30]],
    "pointing_ray": {"start": [30, 30], "end": [60, 30]},
    "obj_bbox": [60, 20, 80, 40],
    "obj_name": "red star",
}
HAND = "<|box_start|>[10, 10, 40, 50]<|box_end|>"
POINTS = "<|point_start|>[20, 20]<|point_end|><|point_start|>[30, 30]<|point_end|>"
CALL = '<tool_call>{"name": "draw_ray", "start": [30, 30], "end": [60, 30], "color": "red"}</tool_call>'
CAPTION = "<|caption_start|>red star<|caption_end|>"
TARGET = "<|box_start|>[60, 20, 80, 40]<|box_end|>"
GOOD = HAND + POINTS + CALL + CAPTION + TARGET


def box(*corners):
    return f"<|box_start|>{list(corners)}<|box_end|>"


# ---- the terms, by hand ----


def test_a_perfect_reply_earns_everything():
    assert score(GOOD, TRUTH) == Score(
        reward=10.0,
        hand_iou=1.0,
        ray_cos=1.0,
        kpt_score=1.0,
        obj_iou=1.0,
        stage2_format=1.0,
        tool_count=1.0,
        obj_box_count=1.0,
        tool_penalty=1.0,
        bbox_penalty=1.0,
        base_score=10.0,
    )


def test_terms_by_hand():
    reply = (
        box(40, 10, 70, 50)  # beside the hand: no overlap
        + "<|point_start|>[20, 45]<|point_end|><|point_start|>[30, 30]<|point_end|>"  # 25 and 0, over a diagonal of 50
        + CALL.replace("[60, 30]", "[30, 90]")  # straight down where right is true: a right angle
        + box(60, 20, 80, 30)  # half of the target, and no caption
    )
    result = score(reply, TRUTH)
    assert result.hand_iou == 0.0
    assert result.kpt_score == pytest.approx(1 - 12.5 / 50)
    assert result.ray_cos == pytest.approx(0.5)
    assert result.obj_iou == pytest.approx(0.5)
    assert result.stage2_format == pytest.approx(0.9)
    assert result.reward == result.base_score == pytest.approx(0 + 0.5 + 0.75 + 2.5 + 1.8)


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("", 0.0),
        (HAND, 0.0 + 1 + 0 + 1.8),  # with no call, the one box is both hand and target
        (TARGET, 5 + 1.8),
        (CAPTION, 0.2 * 0.1),  # no box in the tail: a tenth
        ("<|caption_start|><|caption_end|>", 0.2 * 0.1),  # even an empty caption is one
        (CALL, (1 + (1 - (math.hypot(10, 10) + 30) / 2 / 50)) * 0.1),  # its ends stand in for the points
        (POINTS, 1 * 0.1),
        (HAND + POINTS + CALL, 3 * 0.1),
        (GOOD + TARGET, 10 / 2),
        (GOOD + TARGET + TARGET, 10 / 3),
        (HAND + POINTS + CALL + CALL + CAPTION + TARGET, 10 / 2),
        (HAND + POINTS + CALL * 4 + CAPTION + TARGET + TARGET, 10 / 4 / 2),
        (GOOD + HAND, (10 - 5) / 2),  # the last box is the target
    ],
)
def test_rewards_by_hand(reply, reward):
    assert score(reply, TRUTH).reward == pytest.approx(reward, abs=1e-12)


def test_only_the_first_two_points_matter():
    far = "<|point_start|>[900, 900]<|point_end|>"
    assert score(GOOD + far, TRUTH).kpt_score == 1.0
    assert score(far + GOOD, TRUTH).kpt_score == 0.0
    one = HAND + "<|point_start|>[20, 20]<|point_end|>" + CALL + TARGET
    assert score(one, TRUTH).kpt_score == pytest.approx(1 - (math.hypot(10, 10) + 30) / 2 / 50)


def test_the_first_call_that_counts_gives_the_ray():
    back = CALL.replace("[60, 30]", "[0, 30]")
    assert score(back + CALL, TRUTH).ray_cos == pytest.approx(0, abs=1e-12)
    assert score(back.replace("red", "blue") + CALL, TRUTH).ray_cos == 1.0
    assert score(CALL.replace("[60, 30]", "[30, 30]"), TRUTH).ray_cos == 0.0  # no length


@pytest.mark.parametrize(("value", "counts"), [(3.9, True), ("10", True), (True, True), (None, False), ("x", False)])
def test_calls_count_by_what_int_accepts(value, counts):
    call = {"name": "draw_ray", "start": [value, 30], "end": [60, 30], "color": "red"}
    result = score(f"<tool_call>{json.dumps(call)}</tool_call>", TRUTH)
    assert result.tool_count == float(counts)
    assert result.ray_cos == float(counts)


def test_the_tail_begins_after_any_call():
    """A call that does not count hides the boxes before it from the penalty, and is not counted."""
    result = score(HAND + POINTS + CALL + TARGET * 5 + "<tool_call>{}</tool_call>" + CAPTION + TARGET, TRUTH)
    assert (result.tool_count, result.obj_box_count, result.reward) == (1, 1, 10)
    assert score(GOOD + "<tool_call>{}</tool_call>", TRUTH).obj_box_count == 0


def test_corners_in_any_order():
    assert score(GOOD.replace("[60, 20, 80, 40]", "[80, 40, 60, 20]"), TRUTH).obj_iou == 1.0
    assert score(GOOD, TRUTH | {"hand_bbox": [40, 50, 10, 10]}).reward == 10.0


def test_digits_of_other_scripts_are_not_numbers():
    assert score(GOOD.replace("60, 20, 80", "\u0666\u0660, 20, 80"), TRUTH).obj_box_count == 0
    text = CALL.replace("[30, 30]", '["\u0663\u0660", 30]')
    assert score(text, TRUTH).tool_count == 0


# ---- the frame ----


def test_replies_are_scored_in_their_frame():
    frame = Frame("thousandths", Size(2000, 100), Size(1988, 112))
    truth = {"hand_bbox": [0, 0, 300, 40], "pointing_ray": {"start": [0, 0], "end": [30, 30]}}
    reply = box(0, 0, 150, 400) + CALL.replace("[30, 30]", "[0, 0]").replace("[60, 30]", "[15, 300]")
    result = score(reply, truth, frame)
    assert (result.hand_iou, result.ray_cos, result.kpt_score) == pytest.approx((1, 1, 1), abs=1e-7)
    assert (score(reply, truth).ray_cos or 0) < 0.8


@pytest.mark.parametrize("name", FAMILIES)
def test_a_transcript_earns_nearly_everything_off_the_grid(name):
    original, family = Size(1283, 717), FAMILIES[name]
    frame = Frame(family.frame_kind, original, fit_to_grid(original, family.grid, 4096, 1_003_520))
    truth = GroundTruth(
        hand_bbox=(100.5, 400.25, 433, 699),
        pointing_keypoints=((200, 600), (350, 420)),
        pointing_ray=RaySegment(start=(350, 420), end=(900, 200)),
        obj_bbox=(800, 100, 1100, 400),
        obj_name="cup",
    )
    reply = "\n".join(transcript(truth, frame))
    assert score(reply, truth, frame).reward > 9.9
    wrong = Frame("thousandths" if family.frame_kind == "pixels" else "pixels", original, frame.seen)
    assert score(reply, truth, wrong).reward < 7


# ---- negatives ----

NONES = [None, "none", " None ", {"stage": 1}, {"stage": 1, "hand_bbox": None}, '{"stage": 1}', NEGATIVE]


@pytest.mark.parametrize("truth", NONES, ids=repr)
def test_negatives(truth):
    assert score("There is no hand.", truth) == Score(reward=1.0, neg=1.0)
    assert score(GOOD, truth).reward == 0.0
    ten = RewardRules(negative_max=10)
    assert score("There is no hand.", truth, rules=ten) == Score(reward=10.0, neg=10.0)


def test_each_kind_of_mark_costs_once():
    ten = RewardRules(negative_max=10)
    marks = [CALL, HAND, POINTS, CAPTION]
    for count in range(5):
        text = "".join(mark * 3 for mark in marks[:count])
        assert score(text, None, rules=ten).reward == 10 - 2.5 * count
        assert score(text, None).reward == (0 if count == 4 else 1)
    assert score("<tool_call>{}</tool_call>", None, rules=ten).reward == 10  # malformed marks are free
    assert score("<|box_start|>[1, 2]<|box_end|>", None, rules=ten).reward == 10


# ---- ground truth, whole, partial and broken ----


@pytest.mark.parametrize(
    "truth", ["", "null", "[]", "5", [], 5, {}, "{bad", {"stage": 1, "hand_bbox": []}, '{"stage": 1, "hand_bbox": []}']
)
def test_positives_that_know_nothing_reward_form_alone(truth):
    result = score(GOOD, truth)
    assert (result.hand_iou, result.ray_cos, result.kpt_score, result.obj_iou) == (0, 0, 0, 0)
    assert (result.stage2_format, result.reward, result.neg) == (1, 2, None)


def test_partial_truth():
    for key, term in (("hand_bbox", "hand_iou"), ("obj_bbox", "obj_iou"), ("pointing_ray", "ray_cos")):
        result = score(GOOD, {k: v for k, v in TRUTH.items() if k != key})
        assert getattr(result, term) == 0.0
        assert result.reward == pytest.approx(10 - (5 if term == "obj_iou" else 1))


def test_keypoints_of_the_truth():
    moved = POINTS.replace("[20, 20]", "[20, 30]")  # 10 off, 5 on average
    assert score(moved, TRUTH).kpt_score == pytest.approx(1 - 5 / 50)
    for empty in (None, [], [5, 5, 5, 5]):  # no hand, or an empty one: the divisor is 1
        assert score(moved, TRUTH | {"hand_bbox": empty, "stage": 2}).kpt_score == 0.0
        assert score(POINTS, TRUTH | {"hand_bbox": empty, "stage": 2}).kpt_score == 1.0
    from_ray = TRUTH | {"pointing_keypoints": None}
    assert score(CALL, from_ray).kpt_score == 1.0
    assert score(CALL, TRUTH | {"pointing_keypoints": []}).kpt_score == 0.0
    assert score(CALL, TRUTH | {"pointing_keypoints": []}).ray_cos == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200, 10**400])
@pytest.mark.parametrize("key", ["hand_bbox", "obj_bbox"])
def test_numbers_that_cannot_be_measured_earn_nothing(bad, key):
    """The published clamp turns NaN into full marks; here such a term is 0."""
    term = {"hand_bbox": "hand_iou", "obj_bbox": "obj_iou"}[key]
    for place in range(4):
        broken = [*TRUTH[key][:place], bad, *TRUTH[key][place + 1 :]]
        result = score(GOOD, TRUTH | {key: broken})
        assert getattr(result, term) == pytest.approx(0, abs=1e-100)
        assert math.isfinite(result.reward)
    for ray in ({"start": [bad, 30], "end": [60, 30]}, {"start": [30, 30], "end": [60, bad]}):
        result = score(GOOD, TRUTH | {"pointing_ray": ray, "pointing_keypoints": [[bad, 1], [1, bad]]})
        assert math.isfinite(result.ray_cos or 0.0)
        assert result.kpt_score == 0.0
        if isinstance(bad, float) and not math.isfinite(bad):
            assert result.ray_cos == 0.0


@pytest.mark.parametrize("digits", [200, 305, 309, 310, 400, 4299, 4301, 100_000])
def test_numbers_of_hundreds_of_digits(digits):
    nines = "9" * digits
    for old in ("[10,", "[20,", "[30,", "[60,", "80,"):
        text = GOOD.replace(old, old[:-1] + nines + ",")
        for truth in (TRUTH, None):
            result = compute_score([{"response": text, "ground_truth": truth}])[0]
            assert all(math.isfinite(v) for v in result.values())
    assert score(GOOD.replace("80, 40]", f"{nines}, {nines}]"), TRUTH).obj_iou == pytest.approx(0, abs=1e-100)
    assert score(GOOD.replace("[60, 30]", f"[{nines}, -{nines}]"), TRUTH).reward <= 10


# ---- rules ----


def test_every_rule_has_its_effect():
    base = HAND + POINTS + CALL + TARGET  # 9.8: no caption
    assert score(base, TRUTH).reward == pytest.approx(9.8)
    for name, change in {"hand_iou": -1, "ray_cos": -1, "kpt_score": -1, "obj_iou": -5, "stage2_format": -1.8}.items():
        assert score(base, TRUTH, rules=RewardRules(**{name: 0})).reward == pytest.approx(9.8 + change)
    assert score(base, TRUTH, rules=RewardRules(box_share=0.5)).reward == pytest.approx(9)
    assert score(GOOD, TRUTH, rules=RewardRules(caption_share=0, maximum=11)).reward == pytest.approx(9.8)
    assert score(HAND + CALL, TRUTH, rules=RewardRules(no_box_penalty=0)).reward == 0
    assert score(GOOD, TRUTH, rules=RewardRules(maximum=3)).reward == 3
    assert score(HAND, None, rules=RewardRules(negative_penalty=1, negative_max=10)).reward == 9
    assert score("", None, rules=RewardRules(negative_max=10, maximum=6)).reward == 6


def test_rules_that_make_no_sense_are_refused():
    for rules in ({"hand_iou": -1}, {"obj_iou": math.nan}, {"obj_iou": math.inf}, {"objiou": 5}):
        with pytest.raises(ValidationError, match=next(iter(rules))):
            compute_score([], **rules)


# ---- the published door ----


def test_compute_score_keys():
    positive, negative = compute_score(
        [{"response": GOOD, "ground_truth": TRUTH}, {"response": "no", "ground_truth": None}], negative_max=10
    )
    assert positive == {
        "overall": 10.0,
        "reward": 10.0,
        "hand_iou": 1.0,
        "ray_cos": 1.0,
        "kpt_score": 1.0,
        "obj_iou": 1.0,
        "format": 1.0,
        "stage2_format": 1.0,
        "tool_count": 1.0,
        "obj_box_count": 1.0,
        "tool_penalty": 1.0,
        "bbox_penalty": 1.0,
        "base_score": 10.0,
    }
    assert negative == {"overall": 10.0, "reward": 10.0, "neg": 10.0}
    assert compute_score([{"response": "no", "ground_truth": None}])[0]["reward"] == 1.0


def test_compute_score_takes_any_content():
    items = [{}, {"response": None}, {"response": 5, "ground_truth": TRUTH}, {"response": b"x", "ground_truth": "{}"}]
    assert [item["reward"] for item in compute_score(items)] == [1, 1, 0, 0]
    broken: list = [None, "text", 5, []]
    assert [item["reward"] for item in compute_score(broken)] == [0, 0, 0, 0]
    assert compute_score([]) == []


def test_order_and_json_make_no_difference():
    items = [{"response": r, "ground_truth": t} for r in (GOOD, HAND, CALL, "") for t in (TRUTH, None, {})]
    one_by_one = [compute_score([item])[0] for item in items]
    assert compute_score(items) == one_by_one
    as_json = [{**item, "ground_truth": json.dumps(item["ground_truth"])} for item in items if item["ground_truth"]]
    assert compute_score(as_json) == [s for s, i in zip(one_by_one, items, strict=True) if i["ground_truth"]]


# ---- a slow oracle: the rules of the published reward, once more and independently ----

INT = r"\s*(-?[0-9]+)\s*"


def tags(kind, count, text):
    pattern = rf"<\|{kind}_start\|>\s*\[{','.join([INT] * count)}\]\s*<\|{kind}_end\|>"
    return [[float(v) for v in m.groups()] for m in re.finditer(pattern, text)]


def oracle_calls(text):
    """The rays that count, and where the last call of any kind ends."""
    rays, end = [], 0
    for match in re.finditer(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", text, re.DOTALL):
        end = match.end()
        try:
            call = json.loads(match[1])
            if (
                sorted(call) != ["color", "end", "name", "start"]
                or call["name"] != "draw_ray"
                or call["color"] != "red"
            ):
                continue
            ends = [call["start"], call["end"]]
            if all(isinstance(p, list) and len(p) == 2 for p in ends):
                rays.append([[float(int(v)) for v in p] for p in ends])
        except (ValueError, TypeError, OverflowError):
            pass
    return rays, end


def oracle_iou(a, b):
    sides = []
    for axis in (0, 1):
        (low_a, high_a), (low_b, high_b) = sorted(a[axis::2]), sorted(b[axis::2])
        sides.append(max(0.0, min(high_a, high_b) - max(low_a, low_b)))
    common = sides[0] * sides[1]
    union = sum(abs(c[2] - c[0]) * abs(c[3] - c[1]) for c in (a, b)) - common
    return common / union if union > 0 else 0.0


def oracle(text, truth):
    rays, end = oracle_calls(text)
    boxes, tail, points = tags("box", 4, text), tags("box", 4, text[end:]), tags("point", 2, text)
    captioned = re.search(r"<\|caption_start\|>.*?<\|caption_end\|>", text, re.DOTALL) is not None
    if truth is None:
        kinds = [bool(rays), bool(boxes), bool(points), captioned]
        return {"neg": max(0.0, min(1.0, 10 - 2.5 * sum(kinds)))}
    terms = dict.fromkeys(("hand_iou", "ray_cos", "kpt_score", "obj_iou"), 0.0)
    if boxes and truth.get("hand_bbox"):
        terms["hand_iou"] = oracle_iou(boxes[0], truth["hand_bbox"])
    if tail and truth.get("obj_bbox"):
        terms["obj_iou"] = oracle_iou(tail[-1], truth["obj_bbox"])
    true_ray = truth.get("pointing_ray")
    if rays and true_ray:
        (ax, ay), (bx, by) = rays[0]
        (cx, cy), (dx, dy) = true_ray["start"], true_ray["end"]
        if (ax, ay) != (bx, by) and (cx, cy) != (dx, dy):
            turn = abs(math.atan2(by - ay, bx - ax) - math.atan2(dy - cy, dx - cx))
            terms["ray_cos"] = 1 - min(turn, 2 * math.pi - turn) / math.pi
    found = points[:2] if len(points) > 1 else rays[0] if rays else None
    known = truth.get("pointing_keypoints")
    if known is None and true_ray:
        known = [true_ray["start"], true_ray["end"]]
    if found and known:
        hand = truth.get("hand_bbox")
        size = math.dist(hand[:2], hand[2:]) if hand else 0.0
        mean = (math.dist(found[0], known[0]) + math.dist(found[1], known[1])) / 2
        terms["kpt_score"] = max(0.0, 1 - mean / (size or 1.0))
    form = 0.9 * bool(tail) + 0.1 * captioned
    base = min(10.0, sum(terms.values()) + 4 * terms["obj_iou"] + 2 * form)
    penalties = 1 / max(1, len(rays)), 1 / len(tail) if tail else 0.1
    return terms | {
        "stage2_format": form,
        "tool_count": len(rays),
        "obj_box_count": len(tail),
        "tool_penalty": penalties[0],
        "bbox_penalty": penalties[1],
        "base_score": base,
        "reward": base * penalties[0] * penalties[1],
    }


integers = st.integers(-20, 90)
space = st.sampled_from(["", "", " ", "\n", "\u00a0"])
corners = st.lists(integers, min_size=4, max_size=4)
point = st.lists(integers, min_size=2, max_size=2)
values = st.one_of(
    integers, st.sampled_from([3.9, "10", " 7 ", "1_0", True, None, "x", [1], 1e3, math.nan, math.inf, ""])
)


@st.composite
def replies(draw):
    parts = []
    for kind in draw(st.lists(st.sampled_from(["box", "point", "call", "odd call", "caption", "junk"]), max_size=7)):
        a, b, c = draw(space), draw(space), draw(space)
        if kind in ("box", "point"):
            numbers = f"{b},{c}".join(map(str, draw(corners if kind == "box" else point)))
            parts.append(f"<|{kind}_start|>{a}[{c}{numbers}{a}]{b}<|{kind}_end|>")
        elif kind == "caption":
            parts.append(f"<|caption_start|>{a}<|caption_end|>")
        elif kind == "junk":
            parts.append(
                draw(st.sampled_from(["<tool_call>{", "}</tool_call>", "<tool_call>", "<|box_start|>", "{", "x"]))
            )
        else:
            call = {"name": "draw_ray", "start": draw(point), "end": draw(point), "color": "red"}
            if kind == "odd call":
                ends = st.lists(values, min_size=1, max_size=3)
                odd = {"name": ["draw"], "color": ["blue"], "start": [draw(ends)], "end": [draw(ends), "12"], "z": [1]}
                key = draw(st.sampled_from(sorted(odd)))
                call[key] = draw(st.sampled_from(odd[key]))
            parts.append(f"<tool_call>{a}{json.dumps(call)}{b}</tool_call>")
    return "".join(parts)


truths = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "hand_bbox": corners,
            "obj_bbox": st.one_of(corners, st.none(), st.just([])),
            "pointing_keypoints": st.one_of(st.lists(point, min_size=2, max_size=2), st.none(), st.just([])),
            "pointing_ray": st.one_of(st.fixed_dictionaries({"start": point, "end": point}), st.none()),
            "obj_name": st.text(max_size=3),
        },
    ),
)


@given(replies(), truths, st.booleans())
@settings(max_examples=800, deadline=None)
def test_same_as_the_oracle(reply, truth, as_json):
    result = score(reply, json.dumps(truth) if as_json and truth is not None else truth)
    expected = oracle(reply, truth)
    found = result.terms() | {"reward": result.reward}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    assert len(found) == len(expected | {"reward": 0})


any_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)
any_truth = st.one_of(
    any_json,
    st.dictionaries(st.sampled_from(sorted(TRUTH)), st.one_of(any_json, st.lists(any_json, min_size=2, max_size=4))),
    st.fixed_dictionaries({"pointing_ray": st.fixed_dictionaries({"start": any_json, "end": any_json})}),
)
big = st.integers(-(10**330), 10**330)
any_reply = st.one_of(
    st.text(),
    replies(),
    st.lists(big, min_size=4, max_size=4).map(lambda v: f"<|box_start|>{v}<|box_end|>"),
    st.lists(big, min_size=4, max_size=4).map(
        lambda v: GOOD.replace("[30, 30]", str(v[:2])).replace("[60, 30]", str(v[2:]))
    ),
)


@given(any_reply, any_truth, st.sampled_from(["pixels", "thousandths"]))
@settings(max_examples=400, deadline=None)
def test_nothing_raises_and_everything_is_bounded(reply, truth, kind):
    frame = Frame(kind, Size(640, 480), Size(644, 476))
    result = score(reply, truth, frame)
    assert 0 <= result.reward <= 10
    for name, value in result.terms().items():
        assert math.isfinite(value)
        assert 0 <= value <= (1 if name not in ("tool_count", "obj_box_count", "base_score") else math.inf)
    published = compute_score([{"response": reply, "ground_truth": truth}])[0]
    assert published["overall"] == published["reward"]
    assert all(math.isfinite(value) for value in published.values())
    assert 0 <= published["reward"] <= PUBLISHED.maximum


# ---- speed ----


def seconds(function, times):
    """The least of some tries, without the collector's pauses, which belong to whatever else the process holds."""
    gc.disable()
    try:
        best = math.inf
        for _ in range(4):
            began = time.process_time()
            for _ in range(times):
                function()
            best = min(best, time.process_time() - began)
        return best
    finally:
        gc.enable()


@pytest.mark.parametrize("unit", ["<tool_call>{", "<|caption_start|>", "<|box_start|>[1,", HAND, CALL])
def test_hostile_replies_cost_what_they_are_long(unit):
    one, two = unit * (1_000_000 // len(unit)), unit * (2_000_000 // len(unit))
    assert seconds(lambda: score(two, TRUTH), 1) <= 3 * seconds(lambda: score(one, TRUTH), 1) + 0.02


def test_a_typical_reply_is_cheap():
    """Well below the plain patterns run one by one, as the oracle does; the ratio does not depend on the machine."""
    truth = json.dumps(TRUTH)
    ours, plain = (seconds(f, 200) for f in (lambda: score(GOOD, truth), lambda: oracle(GOOD, json.loads(truth))))
    assert ours < 0.75 * plain


# ---- a photo ----


def photos():
    folder = os.environ.get("POINTVG_TEST_DATA")
    if folder is None or not (Path(folder) / "real_photos" / "manifest.json").is_file():
        pytest.skip("POINTVG_TEST_DATA does not name a folder with real_photos/manifest.json")
    return json.loads((Path(folder) / "real_photos" / "manifest.json").read_text(encoding="utf-8"))["items"]


@pytest.mark.parametrize("name", FAMILIES)
def test_transcripts_of_photos(name):
    """What is known of each photo, written in every family's frame, is scored as right up to rounding."""
    whole = 0
    for item in photos():
        known = {key: value for key, value in item["annotations"].items() if key in TRUTH}
        original, family = Size(item["width"], item["height"]), FAMILIES[name]
        frame = Frame(family.frame_kind, original, fit_to_grid(original, family.grid, 4096, 1_003_520))
        hand = frame.box_from_original(known["hand_bbox"])
        assert (score(box(*hand), known, frame).hand_iou or 0) > 0.97, item["path"]
        if "obj_name" in known:
            truth = GroundTruth.model_validate(known)
            # A ray of 26 pixels written in whole numbers is a few degrees off, and thousandths are no finer.
            assert score("\n".join(transcript(truth, frame)), truth, frame).reward > 9.7
            whole += 1
    assert whole == 1
