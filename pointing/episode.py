"""One task in play, seen from the environment: the model speaks, and is shown an observation or has ended.

    turn --> ends in a tool call, turns left  --> Observation: the image with the ray, or what was wrong with the call
         --> ends in a tool call, none left   --> Ended("turn_limit")
         --> no tool call, or an answer after --> Ended("answer")

It lives in text and images: no tokens, no model. Endings for want of tokens belong to whoever samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from PIL.Image import Image

from pointing import prompts, tool
from pointing.coordinates import Frame
from pointing.drawing import draw_ray
from pointing.grammar import ANSWER_OPEN, last_call, read_ray
from schemas.trajectory import EndedBy


@dataclass(frozen=True, slots=True)
class Observation:
    """What the model is shown next: a sentence and, if a ray was drawn, the image with it (of the seen size).

    >>> Observation(prompts.MALFORMED, None).image is None
    True
    """

    text: str
    image: Image | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The episode is over.

    >>> Ended("answer").reason
    'answer'
    """

    reason: EndedBy


class Episode:
    """Plays one attempt. `images` are as the model sees them; rays are drawn on the first, which `frame` describes.

    Each ray is drawn on the clean image, so that a corrected ray replaces the one before. Raises ValueError if the
    first image does not have the frame's seen size, or no turn is allowed.

    >>> from PIL import Image; from pointing.coordinates import Size
    >>> episode = Episode([Image.new("RGB", (56, 56))], Frame("pixels", Size(56, 56), Size(56, 56)), max_turns=2)
    >>> call = '<tool_call>{"name": "draw_ray", "start": [1, 2], "end": [40, 9], "color": "red"}</tool_call>'
    >>> episode.step(call).text
    'The image with the ray drawn in red:'
    >>> episode.step("<answer>Nothing is pointed at.</answer>")
    Ended(reason='answer')
    """

    def __init__(self, images: Sequence[Image], frame: Frame, max_turns: int = 2) -> None:
        if max_turns < 1:
            raise ValueError(f"max_turns {max_turns}: an episode has at least one turn")
        if images and images[0].size != (frame.seen.width, frame.seen.height):
            width, height = images[0].size
            raise ValueError(
                f"the first image is {width}x{height}, its frame says {frame.seen.width}x{frame.seen.height}; "
                "resize it to frame.seen first"
            )
        self._image = images[0] if images else None
        self._frame = frame
        self._turns_left = max_turns
        self._ended = False

    def step(self, reply: str) -> Observation | Ended:
        """Takes one assistant turn. Any text is legal. Raises RuntimeError after the episode has ended."""
        if self._ended:
            raise RuntimeError("the episode has ended; start another for the next attempt")
        self._turns_left -= 1
        if reply.rfind(ANSWER_OPEN) >= reply.rfind(tool.OPEN):  # -1 each where neither occurs
            self._ended = True
            return Ended("answer")
        if self._turns_left == 0:
            self._ended = True
            return Ended("turn_limit")
        return self._act(reply)

    def _act(self, turn: str) -> Observation:
        if self._image is None:
            return Observation(prompts.NO_IMAGE, None)
        name, call = last_call(turn) or (None, "")
        act = TOOLS.get(name) if name else None
        return Observation(prompts.MALFORMED, None) if act is None else act(self._image, self._frame, call)


def _draw_ray(image: Image, frame: Frame, call: str) -> Observation:
    ray = read_ray(call, strict=True)
    if ray is None:
        return Observation(prompts.MALFORMED, None)
    try:
        drawn = draw_ray(image, frame.to_seen(*ray.start), frame.to_seen(*ray.end))
    except ValueError:  # outside the image, or without length
        return Observation(prompts.OUTSIDE, None)
    return Observation(prompts.DRAWN, drawn)


# What a tool makes of the clean image that the model sees, the frame of its coordinates, and the text of a call, braces
# included. Any text is legal, and an image that is shown has the seen size.
Tool = Callable[[Image, Frame, str], Observation]
TOOLS: Mapping[str, Tool] = MappingProxyType({tool.DRAW_RAY: _draw_ray})
