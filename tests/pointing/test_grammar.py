"""The parser against the plain patterns it stands for, its quirks one by one, and hostile replies of megabytes."""

import gc
import json
import math
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pointing.grammar import ToolCall, parse

CALL = '<tool_call>{"name": "draw_ray", "start": [10, 20], "end": [30, 40], "color": "red"}</tool_call>'
BOX = "<|box_start|>[1, 2, 3, 4]<|box_end|>"
POINT = "<|point_start|>[5, 6]<|point_end|>"
CAPTION = "<|caption_start|>a cup<|caption_end|>"


def call_with(**changes):
    call = {"name": "draw_ray", "start": [1, 2], "end": [3, 4], "color": "red"} | changes
    return f"<tool_call>{json.dumps(call)}</tool_call>"


def test_a_whole_reply():
    hand, target = "<|box_start|>[9, 8, 7, 6]<|box_end|>", BOX
    reply = parse(f"<think>{hand} {POINT}{POINT}</think>\n{CALL}\n<answer>{CAPTION} {target}</answer>")
    assert reply.boxes == ((9, 8, 7, 6), (1, 2, 3, 4))
    assert reply.tail_boxes == ((1, 2, 3, 4),)
    assert reply.points == ((5, 6), (5, 6))
    assert reply.captions == ("a cup",)
    assert reply.tool_calls == (ToolCall((10, 20), (30, 40)),)
    assert reply.rays == [((10, 20), (30, 40))]


@pytest.mark.parametrize("text", ["", "no tags at all", "<answer>Nothing is pointed at.</answer>", "[1, 2, 3, 4]"])
def test_nothing_said(text):
    assert parse(text) == ((), (), (), (), ())


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("<|box_start|>[1,2,3,4]<|box_end|>", [(1, 2, 3, 4)]),
        ("<|box_start|> \n[ -1 ,\t2\r, 3 , -4 ] <|box_end|>", [(-1, 2, 3, -4)]),
        ("<|box_start|>\u00a0[1,\u20032,3,4]<|box_end|>", [(1, 2, 3, 4)]),  # white space of any kind, as published
        ("<|box_start|>[007,-0,3,4]<|box_end|>", [(7, 0, 3, 4)]),
        ("<|box_start|>[1,2,3]<|box_end|>", []),
        ("<|box_start|>[1,2,3,4,5]<|box_end|>", []),
        ("<|box_start|>[1.0,2,3,4]<|box_end|>", []),
        ("<|box_start|>[+1,2,3,4]<|box_end|>", []),
        ("<|box_start|>[- 1,2,3,4]<|box_end|>", []),
        ("<|box_start|>[--1,2,3,4]<|box_end|>", []),
        ("<|box_start|>[1 2,2,3,4]<|box_end|>", []),
        ("<|box_start|>(1,2,3,4)<|box_end|>", []),
        ("<|box_start|>[1,2,3,4]", []),
        ("[1,2,3,4]<|box_end|>", []),
        ("<|BOX_START|>[1,2,3,4]<|BOX_END|>", []),
        ("<|box_start|>[\u0661,2,3,4]<|box_end|>", []),  # Arabic-Indic digits are not numbers
        ("<|box_start|>[\uff11,2,3,4]<|box_end|>", []),  # nor are full-width ones
        ("<|box_start|><|box_start|>[1,2,3,4]<|box_end|>", [(1, 2, 3, 4)]),
        ("<|point_start|>[1,2,3,4]<|point_end|>", []),
    ],
)
def test_boxes(text, boxes):
    assert list(parse(text).boxes) == boxes


@pytest.mark.parametrize(
    ("text", "points"),
    [
        (" <|point_start|>[ 1 , -2 ]<|point_end|>", [(1, -2)]),
        (POINT + "<|point_start|>[7,8]<|point_end|>", [(5, 6), (7, 8)]),
        ("<|point_start|>[1]<|point_end|>", []),
        ("<|point_start|>[1,2,3]<|point_end|>", []),
        ("<|point_start|>[1,\u0662]<|point_end|>", []),
        ("<|box_start|>[1,2]<|box_end|>", []),
    ],
)
def test_points(text, points):
    assert list(parse(text).points) == points


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("<|caption_start|><|caption_end|>", [""]),
        ("<|caption_start|>red\nstar<|caption_end|> <|caption_start|>b<|caption_end|>", ["red\nstar", "b"]),
        ("<|caption_start|>a<|caption_start|>b<|caption_end|>", ["a<|caption_start|>b"]),
        ("<|caption_end|>a<|caption_start|>", []),
        ("<|caption_start|>a<|caption_end|>b<|caption_end|>", ["a"]),
    ],
)
def test_captions(text, captions):
    assert list(parse(text).captions) == captions


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (3, 3),
        (-3, -3),
        (3.9, 3),
        (-3.9, -3),
        (True, 1),
        ("10", 10),
        (" +1_0\n", 10),
        ("\u00a010", 10),  # white space is not a digit
        ("3.9", None),
        ("", None),
        ("\u0661\u0660", None),
        ("1\u0660", None),
        (None, None),
        ([1], None),
        ({}, None),
        (math.nan, None),
        (math.inf, None),
    ],
)
def test_what_counts_as_a_coordinate(value, read):
    (call,) = parse(call_with(start=[value, 2])).tool_calls
    assert call == (None if read is None else ((read, 2), (3, 4)))
    (drawn,) = parse(call_with(start=[value, 2]), strict=True).tool_calls
    assert drawn == (((value, 2), (3, 4)) if type(value) is int else None)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "draw"},
        {"name": ["draw_ray"]},
        {"color": "Red"},
        {"color": None},
        {"width": 3},
        {"start": [1]},
        {"start": [1, 2, 3]},
        {"start": "12"},
        {"start": {"0": 1, "1": 2}},
        {"end": None},
        {"end": 5},
    ],
)
def test_calls_that_do_not_count(changes):
    assert parse(call_with(**changes)).tool_calls == (None,)


def test_missing_and_repeated_keys():
    assert parse('<tool_call>{"name": "draw_ray", "start": [1, 2], "color": "red"}</tool_call>').tool_calls == (None,)
    twice = '<tool_call>{"name": "x", "name": "draw_ray", "start": [1,2], "end": [3,4], "color": "red"}</tool_call>'
    assert parse(twice).tool_calls == (((1, 2), (3, 4)),)  # in JSON the last of equal keys holds


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (CALL.replace("{", " \n{").replace("}<", "} \t<"), 1),
        (CALL + CALL, 2),
        ("<tool_call>{}</tool_call>", 0),
        ("<tool_call>[]</tool_call>", None),  # no braces, so not even a call that does not count
        ("<tool_call></tool_call>", None),
        (CALL.removesuffix("</tool_call>"), None),
        (CALL.removeprefix("<tool_call>"), None),
        ("<tool_call>{" + CALL, 0),  # the first tag reaches for the only closing one
        ("<tool_call>x" + CALL, 1),
        (CALL.replace("}", "}}"), 0),
        (CALL.replace("</", "x</"), None),
        (CALL.replace("}<", "}x</tool_call> }<"), 0),  # it goes on past a closing tag with no brace before it
        ("<tool_call>{\n" + CALL[12:], 1),
        (CALL.replace('"red"', '"}</tool_call>"'), 0),
    ],
)
def test_where_calls_begin_and_end(text, calls):
    reply = parse(text)
    assert (len(reply.rays), len(reply.tool_calls) > 0) == (calls or 0, calls is not None)


def test_the_tail_begins_after_the_last_call_counting_or_not():
    two = "<|box_start|>[5, 5, 9, 9]<|box_end|>"
    assert parse(BOX + two).tail_boxes == ((1, 2, 3, 4), (5, 5, 9, 9))
    assert parse(BOX + CALL + two).tail_boxes == ((5, 5, 9, 9),)
    assert parse(CALL + BOX + "<tool_call>{}</tool_call>" + two).tail_boxes == ((5, 5, 9, 9),)
    assert parse(BOX + CALL).tail_boxes == ()
    assert parse(CALL + BOX + "<tool_call>{" + two).tail_boxes == ((1, 2, 3, 4), (5, 5, 9, 9))
    inside = '<tool_call>{"note": "' + BOX + '"}</tool_call>'
    reply = parse(inside + two)
    assert (reply.boxes, reply.tail_boxes) == (((1, 2, 3, 4), (5, 5, 9, 9)), ((5, 5, 9, 9),))


# ---- the plain patterns, as a slow oracle ----

INT = r"\s*(-?[0-9]+)\s*"
PLAIN_BOX = re.compile(r"<\|box_start\|>\s*\[" + ",".join([INT] * 4) + r"\]\s*<\|box_end\|>")
PLAIN_POINT = re.compile(r"<\|point_start\|>\s*\[" + ",".join([INT] * 2) + r"\]\s*<\|point_end\|>")
PLAIN_CAPTION = re.compile(r"<\|caption_start\|>(.*?)<\|caption_end\|>", re.DOTALL)
PLAIN_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def plain_call(text):
    try:
        call = json.loads(text)
        (a, b), (c, d) = call["start"], call["end"]
        good = set(call) == {"name", "start", "end", "color"} and (call["name"], call["color"]) == ("draw_ray", "red")
        lists = isinstance(call["start"], list) and isinstance(call["end"], list)
        return ((int(a), int(b)), (int(c), int(d))) if good and lists else None
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def plain_parse(text):
    matches = list(PLAIN_CALL.finditer(text))
    tail = text[matches[-1].end() :] if matches else text

    def numbers(pattern, where):
        return tuple(tuple(float(v) for v in m.groups()) for m in pattern.finditer(where))

    return (
        numbers(PLAIN_BOX, text),
        numbers(PLAIN_BOX, tail),
        numbers(PLAIN_POINT, text),
        tuple(PLAIN_CAPTION.findall(text)),
        tuple(plain_call(m.group(1)) for m in matches),
    )


fragments = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "{", "}", "<tool_call>{", "}</tool_call>", '"', ":", " ", "\n", "\u00a0", "x"),
        *("<|box_start|>", "<|box_end|>", "<|point_start|>", "<|point_end|>", "<|caption_start|>", "<|caption_end|>"),
        *("[", "]", ",", "-", "1", "23", "[1, 2, 3, 4]", "[5, 6]", "<answer>", "</answer>", "\x1c", "\\"),
        *(CALL, CALL[:-1], BOX, POINT, CAPTION, call_with(start=["1", 2.5]), call_with(end=[None, 0]), call_with(z=1)),
    ]
)


@given(st.lists(fragments, max_size=16).map("".join))
@settings(max_examples=800, deadline=None)
@example('<tool_call>{"a": "}</tool_call>"}</tool_call>' + BOX)
@example("<tool_call>{<tool_call>{}</tool_call>}</tool_call>" + BOX)
@example("<tool_call>{" + CALL + "} </tool_call>" + BOX)
def test_same_as_the_plain_patterns(text):
    assert parse(text) == plain_parse(text)


@given(st.lists(st.one_of(st.text(max_size=5), fragments), max_size=12).map("".join), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_text_can_be_read(text, strict):
    reply = parse(text, strict=strict)
    assert reply.tail_boxes == reply.boxes[len(reply.boxes) - len(reply.tail_boxes) :]
    assert len(reply.rays) <= len(reply.tool_calls)


# ---- hostile replies ----


def test_numbers_of_any_length():
    for digits in (400, 4_299, 4_301, 200_000):
        nines = "9" * digits
        assert parse(f"<|box_start|>[1, 2, {nines}, -{nines}]<|box_end|>").boxes == ((1, 2, math.inf, -math.inf),)
        assert parse(f"<|point_start|>[{nines}, 2]<|point_end|>").points == ((math.inf, 2),)
    assert parse(f"<|point_start|>[{'0' * 5000}7, 2]<|point_end|>").points == ((7, 2),)


def test_long_numbers_in_calls():
    """Up to Python's limit on digits they are numbers; beyond it the call is not JSON that can be read."""
    nines = "9" * 400
    assert parse(CALL.replace("10,", nines + ",")).rays == [((math.inf, 20), (30, 40))]
    assert parse(CALL.replace("10,", f'"-{nines}",')).rays == [((-math.inf, 20), (30, 40))]
    assert parse(CALL.replace("10,", "9" * 5000 + ",")).tool_calls == (None,)
    assert parse(CALL.replace("10,", '"' + "9" * 5000 + '",')).tool_calls == (None,)
    assert parse(CALL.replace("10,", "1e999,")).tool_calls == (None,)


def test_deep_nesting_does_not_count():
    assert parse("<tool_call>" + '{"a":' * 100_000 + "}</tool_call>" + BOX).tool_calls == (None,)
    assert parse('<tool_call>{"start": ' + "[" * 100_000 + "}</tool_call>").tool_calls == (None,)


HOSTILE = [
    "<tool_call>{",
    "<tool_call>{}",
    "<tool_call> ",
    "<tool_call>" + " " * 500,
    "<tool_call>{}</tool_call>",
    "<tool_call>{ } ",
    "}</tool_call>",
    "} " * 10,
    "}" + " " * 500,
    "</tool_call>",
    "<|box_start|>",
    "<|box_start|>[",
    "<|box_start|>[1,",
    "<|box_start|>[" + " " * 500,
    "<|box_start|>[" + "1" * 500,
    "<|box_end|>",
    BOX,
    "<|point_start|>",
    "<|point_start|>[1,2]",
    POINT,
    "<|caption_start|>",
    "<|caption_end|>",
    "<|caption_start|><|caption_end|>",
    "<|",
    "<",
    "9",
    " ",
    "{",
    '<tool_call>{"',
    '<tool_call>{"a":[',
    '<tool_call>{"a":[}</tool_call>',
]


def seconds(text):
    """Of a core, without the collector's pauses, which belong to whatever else the process holds."""
    gc.disable()
    try:
        began = time.process_time()
        parse(text)
        return time.process_time() - began
    finally:
        gc.enable()


@pytest.mark.parametrize("unit", HOSTILE, ids=lambda unit: repr(unit[:30]))
def test_time_is_linear(unit):
    """Two million letters take a tenth of a second or two of a core, and of a busy one not 5: quadratic work would take
    minutes."""
    assert seconds(unit * (2_000_000 // len(unit))) < 5


@pytest.mark.parametrize("unit", ["<tool_call>{", "<|caption_start|>", "<|box_start|>[1, 2, 3, 4]", "<tool_call>{}"])
def test_hostile_text_hides_no_tag_after_it(unit):
    """What follows is still read as the plain patterns read it (short here, where these are affordable)."""
    text = unit * 200 + BOX + CAPTION + CALL + BOX
    assert parse(text) == plain_parse(text)
