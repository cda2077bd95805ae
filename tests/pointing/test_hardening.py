"""The optional rules that close ways of earning reward without pointing well; off, they change nothing."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointing.coordinates import Frame, Size
from pointing.grammar import answer_text
from pointing.prompts import transcript
from pointing.rewards import PUBLISHED, score
from schemas.scoring import RewardRules
from schemas.task import NEGATIVE

TRUTH = {
    "hand_bbox": [10, 10, 40, 50],
    "pointing_ray": {"start": [30, 30], "end": [60, 30]},
    "obj_bbox": [60, 20, 80, 40],
}
HAND = "<|box_start|>[10, 10, 40, 50]<|box_end|>"
CALL = '<tool_call>{"name": "draw_ray", "start": [30, 30], "end": [60, 30], "color": "red"}</tool_call>'
TARGET = "<|box_start|>[60, 20, 80, 40]<|box_end|>"
CAPTION = "<|caption_start|>cup<|caption_end|>"
FRAME = Frame("pixels", Size(100, 60), Size(100, 60))
GOOD = HAND + CALL + CAPTION + TARGET
HARD = RewardRules(
    require_tool=True, require_valid_boxes=True, ray_above_chance=True, require_negative_answer=True, negative_max=10
)


def test_the_defaults_are_the_published_rules():
    off = {name: False for name, value in PUBLISHED.model_dump().items() if isinstance(value, bool)}
    assert sorted(off) == ["ray_above_chance", "require_negative_answer", "require_tool", "require_valid_boxes"]
    assert RewardRules(**off) == PUBLISHED


def test_an_honest_reply_loses_nothing():
    assert score(GOOD, TRUTH, FRAME, HARD) == score(GOOD, TRUTH, FRAME)
    assert score("\n".join(transcript(NEGATIVE, FRAME)), None, FRAME, HARD).reward == 10


def test_the_tool_can_be_required():
    rules = RewardRules(require_tool=True)
    without = HAND + CAPTION + TARGET
    assert score(without, TRUTH, FRAME).reward > 3
    assert score(without, TRUTH, FRAME, rules).reward == 0
    assert score(without + CALL.replace("red", "blue"), TRUTH, FRAME, rules).reward == 0  # a call that does not count
    assert score(GOOD, TRUTH, FRAME, rules).reward == score(GOOD, TRUTH, FRAME).reward
    assert score("", None, FRAME, rules) == score("", None, FRAME)  # a negative needs no tool


@pytest.mark.parametrize(
    "box",
    [
        "[80, 40, 60, 20]",  # inverted: measured as if it were not
        "[60, 40, 80, 20]",
        "[60, 20, 60, 40]",  # no area
        "[60, 20, 101, 40]",  # leaves the image
        "[60, 20, 80, 61]",
        "[-1, 20, 80, 40]",
        "[60, 20, " + "9" * 400 + ", 40]",
    ],
)
def test_boxes_that_are_not_in_the_image_earn_nothing(box):
    rules = RewardRules(require_valid_boxes=True)
    reply = GOOD.replace("[60, 20, 80, 40]", box)
    hard = score(reply, TRUTH, FRAME, rules)
    assert (hard.hand_iou, hard.obj_iou, hard.obj_box_count) == (1, 0, 1)
    assert hard.stage2_format == pytest.approx(0.1)  # the caption alone
    assert hard.bbox_penalty == PUBLISHED.no_box_penalty
    soft = score(reply, TRUTH, FRAME)
    assert soft.stage2_format == 1
    assert soft.reward > hard.reward
    wrong_hand = score(GOOD.replace("[10, 10, 40, 50]", box), TRUTH, FRAME, rules)
    assert (wrong_hand.hand_iou, wrong_hand.obj_iou) == (0, 1)


def test_the_border_belongs_to_the_image_and_bad_boxes_still_count_against_the_reply():
    rules = RewardRules(require_valid_boxes=True)
    whole = GOOD.replace("[60, 20, 80, 40]", "[0, 0, 100, 60]")
    assert score(whole, TRUTH, FRAME, rules) == score(whole, TRUTH, FRAME)
    two = HAND + CALL + CAPTION + "<|box_start|>[5, 5, 1, 1]<|box_end|>" + TARGET
    assert score(two, TRUTH, FRAME, rules).reward == score(two, TRUTH, FRAME).reward == score(GOOD, TRUTH).reward / 2


@pytest.mark.parametrize(("kind", "edge"), [("thousandths", 1000), ("pixels", 112)])
def test_the_border_is_that_of_the_reply_s_own_frame(kind, edge):
    frame, rules = Frame(kind, Size(333, 77), Size(112, 112)), RewardRules(require_valid_boxes=True)
    truth = {"obj_bbox": [0, 0, 333, 77]}
    for side, expected in ((edge, 1.0), (edge + 1, 0.0)):
        reply = f"<|box_start|>[0, 0, {side}, {edge}]<|box_end|>"
        assert score(reply, truth, frame, rules).obj_iou == pytest.approx(expected, abs=1e-12)


def test_a_random_ray_earns_nothing_on_average():
    rules = RewardRules(ray_above_chance=True)
    found, published = [], []
    for turn in range(360):
        end = [round(1e6 * math.cos(math.radians(turn))), round(1e6 * math.sin(math.radians(turn)))]
        reply = CALL.replace("[30, 30]", "[0, 0]").replace("[60, 30]", str(end))
        found.append(score(reply, TRUTH, rules=rules).ray_cos)
        published.append(score(reply, TRUTH).ray_cos)
    assert math.fsum(published) / 360 == pytest.approx(0.5, abs=1e-6)
    assert math.fsum(found) / 360 == pytest.approx(0, abs=1e-6)
    assert (max(found), min(found)) == pytest.approx((1, -1))
    assert found[90] == pytest.approx(0, abs=1e-6)
    assert score(CALL.replace("[60, 30]", "[30, 30]"), TRUTH, rules=rules).ray_cos == 0  # no direction
    assert score("", TRUTH, rules=rules).ray_cos == 0


@pytest.mark.parametrize(
    ("reply", "earns"),
    [
        ("", False),
        ("  \n", False),
        ("...", False),
        ("<think>There is no pointing hand.</think>", False),
        ("<think>no</think><answer></answer>", False),
        ("<think>no</think><answer> <|im_end|> </answer>", False),
        ("<answer>", False),
        ("<think>no</think><answer>Nothing is pointed at.</answer>", True),
        ("<answer>没有</answer>", True),
        ("Nothing.", True),
        ("<think>no</think>Nothing.", True),
    ],
)
def test_an_empty_answer_to_a_negative_can_be_refused(reply, earns):
    rules = RewardRules(require_negative_answer=True, negative_max=10)
    assert score(reply, None, FRAME, rules).reward == (10 if earns else 0)
    assert score(reply, None, FRAME, RewardRules(negative_max=10)).reward == 10


def test_answer_text():
    assert answer_text("<think>a</think><answer>b <|caption_start|>c<|caption_end|></answer>d") == "b c"
    assert answer_text("a < b > c") == "a  c"
    assert answer_text("a < b") == "a < b"


corners = st.lists(st.integers(-20, 120), min_size=4, max_size=4).map(lambda v: f"<|box_start|>{v}<|box_end|>")
pieces = st.one_of(corners, st.sampled_from([CALL, CAPTION, HAND, TARGET, "<answer>", "no", "</think>", "<"]))


@given(st.lists(pieces, max_size=7).map("".join), st.sampled_from([TRUTH, None, {}, "none"]))
@settings(max_examples=300, deadline=None)
def test_no_rule_ever_adds_reward(reply, truth):
    soft = RewardRules(negative_max=10)
    for name in ("require_tool", "require_valid_boxes", "ray_above_chance", "require_negative_answer"):
        hard = soft.model_copy(update={name: True})
        assert 0 <= score(reply, truth, FRAME, hard).reward <= score(reply, truth, FRAME, soft).reward
