"""How a tool call is written: its tags, and the name, the keys and the colour of `draw_ray`.

    <tool_call>{"name": "draw_ray", "start": [x, y], "end": [x, y], "color": "red"}</tool_call>

`grammar` reads it, `prompts` describes it, `episode` does it.
"""

from __future__ import annotations

OPEN, CLOSE = "<tool_call>", "</tool_call>"  # a turn stops at CLOSE
DRAW_RAY = "draw_ray"
COLOR = "red"
KEYS = frozenset({"name", "start", "end", "color"})

# A call's text round the coordinates of its ends, as transcripts write it.
BEFORE_START = f'{OPEN}{{"name": "{DRAW_RAY}", "start": ['
BEFORE_END = '], "end": ['
AFTER_END = f'], "color": "{COLOR}"}}{CLOSE}'


def written(start: str, end: str) -> str:
    """The call that draws a ray between two points, each "x, y".

    >>> written("1, 2", "3, 4")
    '<tool_call>{"name": "draw_ray", "start": [1, 2], "end": [3, 4], "color": "red"}</tool_call>'
    """
    return f"{BEFORE_START}{start}{BEFORE_END}{end}{AFTER_END}"
