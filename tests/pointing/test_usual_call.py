"""The short way of reading a call gives exactly what the JSON decoder gives."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointing.grammar import ToolCall, parse

numbers = st.one_of(
    st.integers(-999, 999).map(str),
    st.integers(-(10**18), 10**18).map(str),
    st.sampled_from(["-0", "007", "-01", "1e3", "3.9", "", "-", "9" * 15, "9" * 16, "9" * 400, "\u0663"]),
)


def decoded(values: list[str]) -> ToolCall | None:
    text = '{{"name": "draw_ray", "start": [{}, {}], "end": [{}, {}], "color": "red"}}'.format(*tuple(values))
    try:
        call = json.loads(text)
        x1, y1, x2, y2 = (int(v) for v in (*call["start"], *call["end"]))
    except (ValueError, TypeError):
        return None

    def real(value: int) -> float:
        return float(value) if abs(value) < 10**300 else (math.inf if value > 0 else -math.inf)

    return ToolCall((real(x1), real(y1)), (real(x2), real(y2)))


@given(st.lists(numbers, min_size=4, max_size=4), st.sampled_from(["", " ", "\n"]))
@settings(max_examples=300, deadline=None)
def test_both_ways_agree(values: list[str], space: str) -> None:
    usual = '{{"name": "draw_ray", "start": [{}, {}], "end": [{}, {}], "color": "red"}}'.format(*tuple(values))
    spaced = usual.replace('{"name"', '{ "name"')
    for text in (usual, spaced):
        (found,) = parse(f"<tool_call>{space}{text}{space}</tool_call>").tool_calls
        assert found == decoded(values)
        zeros = [value for point in found or () for value in point if value == 0]
        assert all(math.copysign(1, value) == 1 for value in zeros)


@pytest.mark.parametrize("strict", [True, False])
def test_strictness_does_not_matter_to_whole_numbers(strict: bool) -> None:
    text = '<tool_call>{"name": "draw_ray", "start": [1, -2], "end": [3, 40], "color": "red"}</tool_call>'
    assert parse(text, strict=strict).tool_calls == (ToolCall((1.0, -2.0), (3.0, 40.0)),)
