"""Hostile replies and ground truths, many: nothing raises, nothing is ever non-finite, whatever the rules and frame."""

import json
import math
import random
import reprlib
import string

import pytest

from pointing.coordinates import Frame, Size
from pointing.metrics import measure, summarise
from pointing.rewards import PUBLISHED, compute_score, score
from schemas.scoring import RewardRules

HARD = RewardRules(
    require_tool=True, require_valid_boxes=True, ray_above_chance=True, require_negative_answer=True, negative_max=10
)
FRAMES = (
    Frame.identity(),
    Frame("pixels", Size(640, 480), Size(644, 476)),
    Frame("thousandths", Size(1, 1_000_000), Size(28, 28)),
)
OPENED = (
    "<tool_call>", "<tool_call>{", "<|box_start|>", "<|box_start|>[1,2,", "<|point_start|>[", "<|caption_start|>",
    "<answer>", "<think>", "</think>", "<", "{", "[", "\\", '"', "}</tool_call", '<tool_call>{"name":',
)  # fmt: skip
KEYS = ("stage", "hand_bbox", "pointing_keypoints", "pointing_ray", "obj_bbox", "obj_name", "start", "end")

GIANT = '{"obj_bbox": [' + "9" * 5000 + ", 1, 2, 3]}"  # more digits than Python reads


class Fuzzer:
    """Draws replies and ground truths; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def number(self) -> str:
        draw = self.draw
        if draw.random() < 0.85:  # mostly sound, so that the odd part reaches the arithmetic
            return str(draw.randint(-50, 900))
        return draw.choice(
            [
                lambda: draw.choice("123456789") * draw.choice((17, 309, 400, 4299, 4301, 9000)),
                lambda: "-" + "9" * draw.choice((308, 310, 1000)),
                lambda: draw.choice(
                    ("NaN", "Infinity", "-Infinity", "1e999", "-1e-999", "0.5", "-0", "1_0", "0x1f", "")
                ),
                lambda: "".join(draw.choice("٠١٢३४५１２３²½Ⅻ") for _ in range(draw.randint(1, 4))),
                lambda: draw.choice(("null", "true", '"7"', '" 8 "', "[1]", "{}", "\ud800", "\x00", "∞")),
            ]
        )()

    def tag(self) -> str:
        draw, kind = self.draw, self.draw.choice(("box", "point", "caption", "call", "call", "junk"))
        space = draw.choice(("", " ", "\n", "\u00a0", "\u2028"))
        if kind in ("box", "point"):
            count = draw.choice((4, 4, 4, 3, 0, 5) if kind == "box" else (2, 2, 2, 1, 3))
            return f"<|{kind}_start|>{space}[{', '.join(self.number() for _ in range(count))}]<|{kind}_end|>"
        if kind == "caption":
            return (
                f"<|caption_start|>{space}{draw.choice(('', 'cup', chr(0xD800), '<|caption_start|>'))}<|caption_end|>"
            )
        if kind == "call":
            ends = [f"[{self.number()}, {self.number()}]" for _ in range(2)]
            color = draw.choice(('"red"', '"red"', '"blue"', "3", "{", '"\\ud800"'))
            end = draw.choice(("}", "}", "}}", "", ', "x": 1}', ', "color": "red"}'))
            call = f'{{"name": "draw_ray", "start": {ends[0]}, "end": {ends[1]}, "color": {color}{end}'
            return f"<tool_call>{space}{call}{space}</tool_call>"
        return draw.choice(OPENED) * draw.choice((1, 1, 3, 200))

    def reply(self) -> str:
        draw = self.draw
        if draw.random() < 0.1:
            alphabet = string.printable + "".join(OPENED) + "\ud800\udfff\u0660\x00"
            return "".join(draw.choice(alphabet) for _ in range(draw.randint(0, 200)))
        return "".join(self.tag() for _ in range(draw.randint(0, 6)))

    def value(self, depth: int = 0) -> object:
        draw = self.draw
        if depth > 3 and draw.random() < 0.85:
            return draw.randint(-50, 900)
        leaves = (
            lambda: draw.randint(-10, 900),
            lambda: draw.uniform(-10, 900),
            lambda: draw.choice((math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -0.0)),
            lambda: 10 ** draw.choice((17, 308, 309, 400, 5000)),
            lambda: draw.choice((None, True, False, "", "7", "\ud800", "x", b"x", object, set(), (1, 2))),
        )
        if depth > 3 or draw.random() < 0.5:
            return draw.choice(leaves)()
        if draw.random() < 0.8:
            return [self.value(depth + 1) for _ in range(draw.choice((0, 2, 2, 2, 3, 4, 4, 5)))]
        return {draw.choice(KEYS): self.value(depth + 1) for _ in range(draw.randint(0, 3))}

    def truth(self) -> object:
        draw = self.draw
        known = {key: self.value() for key in draw.sample(KEYS, draw.randint(0, 6))}
        if draw.random() < 0.5:
            boxes = {"hand_bbox": [self.value(9) for _ in range(4)], "obj_bbox": [self.value(9) for _ in range(4)]}
            points = [[self.value(9), self.value(9)] for _ in range(2)]
            ray = {"start": [self.value(9), self.value(9)], "end": [self.value(9), self.value(9)]}
            known |= boxes | {"pointing_keypoints": points, "pointing_ray": ray}
        kind = draw.random()
        if kind < 0.5:
            return known
        if kind < 0.8:
            text = GIANT if _has_giants(known) else json.dumps(known, default=repr)
            return text[: draw.randint(0, len(text))] if draw.random() < 0.3 else text
        odd = ("none", " NoNe ", "null", "[" * 3000, '{"a":' * 3000, "9" * 5000, "NaN", "\ud800", "", "{", '"none"')
        return draw.choice((None, *odd, 5, 0.5, [], [1], True, b"{}", object(), {1: 2}, {"stage": 1}, {"stage": 1.0}))


def _has_giants(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_giants, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_giants, value))
    return isinstance(value, int) and value > 10**4000


def check(reply: str, truth: object, frame: Frame, rules: RewardRules) -> None:
    result = score(reply, truth, frame, rules)  # pyright: ignore[reportArgumentType]
    terms = result.terms()
    assert 0 <= result.reward <= rules.maximum
    assert math.isfinite(math.fsum([result.reward, *terms.values()]))
    assert ("neg" in terms) != ("obj_iou" in terms)
    (published,) = compute_score([{"response": reply, "ground_truth": truth}])
    assert all(map(math.isfinite, published.values()))
    if frame.is_identity and rules == PUBLISHED:
        assert published["overall"] == result.reward
    numbers = summarise([measure(reply, truth, frame)]).flat()  # pyright: ignore[reportArgumentType]
    assert all(map(math.isfinite, numbers.values()))


def run(seed: int, count: int) -> None:
    fuzzer = Fuzzer(seed)
    kinds = set()
    for index in range(count):
        reply, truth = fuzzer.reply(), fuzzer.truth()
        frame, rules = FRAMES[index % 3], (PUBLISHED, HARD)[index % 2]
        try:
            check(reply, truth, frame, rules)
        except Exception as error:
            raise AssertionError(f"seed {seed}, case {index}: {reply[:500]!r} {reprlib.repr(truth)}") from error
        kinds.add(tuple(score(reply, truth)))  # pyright: ignore[reportArgumentType]
    assert len(kinds) > count / 40  # the cases reach many different outcomes


def test_three_thousand_hostile_pairs():
    run(1, 3000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_thirty_thousand_more(seed):
    run(seed, 5000)


@pytest.mark.parametrize("unit", OPENED)
def test_a_megabyte_of_unclosed_tags(unit):
    reply = unit * (1_000_000 // len(unit))
    for rules in (PUBLISHED, HARD):
        check(reply, {"obj_bbox": [1, 2, 3, 4]}, FRAMES[0], rules)
        check(reply, None, FRAMES[0], rules)


def test_inputs_of_the_wrong_type():
    odd = [None, 5, b"x", [], {"response": 5}, {"response": "", "ground_truth": object()}, {"response": "\ud800"}]
    for result in compute_score(odd):  # pyright: ignore[reportArgumentType]
        assert all(map(math.isfinite, result.values()))
