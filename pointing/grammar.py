"""The grammar of replies, and its only parser.

A reply holds boxes, points, captions and tool calls, each between a pair of tags, in any prose:

    <|box_start|>[x1, y1, x2, y2]<|box_end|>      <|point_start|>[x, y]<|point_end|>
    <|caption_start|>words<|caption_end|>         <tool_call>{"name": "draw_ray", ...}</tool_call>

Numbers are whole, may be negative, and have ASCII digits only; white space is free between the parts of a tag. Tool
calls are found as the pattern <tool_call>\\s*(\\{.*?\\})\\s*</tool_call> finds them, across lines. Replies are hostile
input: nothing raises, and the time is linear in the length (that pattern alone is quadratic in unclosed tags).
"""

from __future__ import annotations

import json
import math
import re
from typing import NamedTuple, SupportsInt, cast

from pointing import tool
from pointing.geometry import Box, Point

ANSWER_OPEN = "<answer>"
ANSWER_CLOSE, THINK_CLOSE = "</answer>", "</think>"
CAPTION_OPEN, CAPTION_CLOSE = "<|caption_start|>", "<|caption_end|>"

# Possessive quantifiers (*+, ++) never go back, so an attempt costs what it reads, and no two attempts read the same
# text: none of these patterns can cross the "<" of the next tag.
_INT = r"\s*+(-?[0-9]++)\s*+"
_BOX = re.compile(rf"<\|box_start\|>\s*+\[{_INT},{_INT},{_INT},{_INT}\]\s*+<\|box_end\|>")
_POINT = re.compile(rf"<\|point_start\|>\s*+\[{_INT},{_INT}\]\s*+<\|point_end\|>")
_CALL_START = re.compile(rf"{tool.OPEN}\s*+\{{")
_CALL_END = re.compile(rf"\}}\s*+{tool.CLOSE}")
# A call as transcripts write it: what the JSON decoder makes of it, in a quarter of the time.
_WHOLE = r"(-?(?:0|[1-9][0-9]{0,14}+))"
_USUAL_CALL = re.compile(
    rf'\{{"name": "{tool.DRAW_RAY}", "start": \[{_WHOLE}, {_WHOLE}\], "end": \[{_WHOLE}, {_WHOLE}\], '
    rf'"color": "{tool.COLOR}"\}}'
)
_TAG = re.compile(r"<[^<>]*+>")
_decode_json = json.JSONDecoder().raw_decode


class ToolCall(NamedTuple):
    """A call of draw_ray that counts: the segment of the ray, in the frame in which the reply was written.

    >>> parse('<tool_call>{"name": "draw_ray", "start": [1, 2], "end": [3, 4], "color": "red"}</tool_call>').tool_calls
    (ToolCall(start=(1.0, 2.0), end=(3.0, 4.0)),)
    """

    start: Point
    end: Point


class Reply(NamedTuple):
    """What one reply says, in reading order. A number too large for a float is infinite.

    `tool_calls` has one entry per pair of tool-call tags, None for a call that does not count. `tail_boxes` are the
    boxes after the last of these pairs, counting or not (all boxes if there is none).

    >>> parse("<|box_start|>[1, 2, 3, 4]<|box_end|> <|caption_start|>cup<|caption_end|>").boxes
    ((1.0, 2.0, 3.0, 4.0),)
    """

    boxes: tuple[Box, ...]
    tail_boxes: tuple[Box, ...]
    points: tuple[Point, ...]
    captions: tuple[str, ...]
    tool_calls: tuple[ToolCall | None, ...]

    @property
    def rays(self) -> list[ToolCall]:
        """The tool calls that count."""
        return [call for call in self.tool_calls if call is not None]


def parse(reply: str, *, strict: bool = False) -> Reply:
    """Reads a reply. With `strict`, only tool calls whose four coordinates are JSON integers count."""
    calls, tail = _tool_calls(reply, strict)
    before, after = _boxes(reply, 0, tail), _boxes(reply, tail, len(reply))  # no box can cross a closing tag
    points = tuple([(float(x), float(y)) for x, y in _POINT.findall(reply)])
    return Reply((*before, *after), after, points, _captions(reply), calls)


def _boxes(reply: str, start: int, end: int) -> tuple[Box, ...]:
    return tuple([(float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in _BOX.findall(reply, start, end)])


def _tool_calls(reply: str, strict: bool) -> tuple[tuple[ToolCall | None, ...], int]:
    """Every tool call, and the position at which the last one ends (0 without one)."""
    texts, end = _call_texts(reply)
    return tuple([read_ray(text, strict=strict) for text in texts]), end


def last_call(reply: str) -> tuple[str | None, str] | None:
    """The last tool call: its name (None where it is no JSON object with one) and its text, braces included.

    >>> last_call('so: <tool_call>{"name": "zoom", "box": [1, 2, 3, 4]}</tool_call>')
    ('zoom', '{"name": "zoom", "box": [1, 2, 3, 4]}')
    """
    texts, _ = _call_texts(reply)
    if not texts:
        return None
    try:
        name = cast("dict[str, object]", json.loads(texts[-1])).get("name")
    except (ValueError, RecursionError):
        name = None
    return name if isinstance(name, str) else None, texts[-1]


def _call_texts(reply: str) -> tuple[list[str], int]:
    texts: list[str] = []
    end = 0
    while opened := _CALL_START.search(reply, end):
        closed = _CALL_END.search(reply, opened.end())
        if closed is None:
            break  # nor can any later call be closed
        end = closed.end()
        texts.append(reply[opened.end() - 1 : closed.start() + 1])
    return texts, end


def read_ray(text: str, *, strict: bool = False) -> ToolCall | None:
    """The segment that a call of draw_ray names, from the text between its tags; None where the call does not count."""
    usual = _USUAL_CALL.fullmatch(text)
    if usual is not None:
        x1, y1, x2, y2 = usual.groups()
        return ToolCall((float(int(x1)), float(int(y1))), (float(int(x2)), float(int(y2))))
    try:
        call, end = _decode_json(text)
        if end != len(text) or call.keys() != tool.KEYS or call["name"] != tool.DRAW_RAY or call["color"] != tool.COLOR:
            return None
        return ToolCall(_read_point(call["start"], strict), _read_point(call["end"], strict))
    # ValueError: not JSON, or no number in it. TypeError: a value of another kind. OverflowError: infinity.
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def _read_point(value: object, strict: bool) -> Point:
    if not isinstance(value, list):
        raise TypeError("a point is a list")
    x, y = cast("list[object]", value)
    return _read_coordinate(x, strict), _read_coordinate(y, strict)


def _read_coordinate(value: object, strict: bool) -> float:
    if type(value) is not int:  # bool is a subclass, and not a coordinate to be drawn
        if strict:
            raise TypeError("a coordinate is an integer")
        if isinstance(value, str) and not value.strip().isascii():
            raise ValueError("digits are ASCII")
        value = int(cast("SupportsInt", value))  # TypeError for null, a list or an object
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _captions(reply: str) -> tuple[str, ...]:
    captions: list[str] = []
    start = reply.find(CAPTION_OPEN)
    while start >= 0:
        start += len(CAPTION_OPEN)
        end = reply.find(CAPTION_CLOSE, start)
        if end < 0:
            break
        captions.append(reply[start:end])
        start = reply.find(CAPTION_OPEN, end + len(CAPTION_CLOSE))
    return tuple(captions)


def answer_text(reply: str) -> str:
    """The words of a reply's answer, without tags: what follows its thinking, between answer tags if there are any.

    >>> answer_text("<think>hm</think><answer>Nothing is pointed at.</answer>")
    'Nothing is pointed at.'
    """
    _, _, said = reply.rpartition(THINK_CLOSE)
    opened = said.find(ANSWER_OPEN)
    if opened >= 0:
        closed = said.find(ANSWER_CLOSE, opened)
        said = said[opened : closed if closed >= 0 else len(said)]
    return _TAG.sub("", said).strip()
