"""Episodes to every ending, in every family's frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pointing import prompts
from pointing.coordinates import FAMILIES, Frame, Size, fit_to_grid
from pointing.drawing import draw_ray
from pointing.episode import Ended, Episode, Observation
from pointing.prompts import transcript
from schemas.task import NEGATIVE, GroundTruth, RaySegment

SIZE = Size(112, 84)
FRAME = Frame("pixels", SIZE, SIZE)
CLEAN = Image.new("RGB", (112, 84), (30, 60, 90))


def call(start, end, color="red"):
    return f'<tool_call>{{"name": "draw_ray", "start": {start}, "end": {end}, "color": "{color}"}}</tool_call>'


def episode(max_turns=2, frame=FRAME, images=(CLEAN,)):
    return Episode(list(images), frame, max_turns)


def test_draw_then_answer():
    play = episode()
    seen = play.step("<think>the hand</think>\n" + call([10, 20], [60, 20]))
    assert isinstance(seen, Observation)
    assert seen.text == prompts.DRAWN
    assert seen.image is not None
    assert seen.image.tobytes() == draw_ray(CLEAN, (10, 20), (60, 20)).tobytes() != CLEAN.tobytes()
    assert play.step("<answer>a cup</answer>") == Ended("answer")


def test_answer_at_once():
    assert episode().step(transcript(NEGATIVE, FRAME)[0]) == Ended("answer")
    assert episode().step("") == Ended("answer")
    assert episode().step("{} </tool_call>") == Ended("answer")  # nothing was opened


def test_an_answer_after_a_call_ends():
    assert episode().step(call([1, 1], [9, 9]) + "<answer>a cup</answer>") == Ended("answer")
    seen = episode().step("<answer>not yet</answer>" + call([1, 1], [9, 9]))
    assert isinstance(seen, Observation)


def test_the_last_turn_gets_no_observation():
    assert episode(max_turns=1).step(call([1, 1], [9, 9])) == Ended("turn_limit")
    assert episode(max_turns=1).step("<tool_call>{") == Ended("turn_limit")
    assert episode(max_turns=1).step("<answer></answer>") == Ended("answer")
    play = episode(max_turns=3)
    outcomes = [play.step(call([1, 1], [9, 9])) for _ in range(3)]
    assert [type(outcome) for outcome in outcomes] == [Observation, Observation, Ended]
    assert outcomes[-1] == Ended("turn_limit")


@pytest.mark.parametrize(
    "reply",
    [
        "<tool_call>",
        "<tool_call>{",
        "<tool_call>{}</tool_call>",
        "<tool_call>[1, 2]</tool_call>",
        call([1.5, 2], [3, 4]),
        call(["1", 2], [3, 4]),
        call("[true, 2]", [3, 4]),
        call([1, 2, 3], [3, 4]),
        call([1, 2], [30, 40], color="blue"),
        call([1, 2], [30, 40]) + "<tool_call>{}</tool_call>",  # the last one is meant
        call("[" * 50_000, [3, 4]),
        call(["9" * 5000, 2], [3, 4]),
    ],
)
def test_a_malformed_call_may_be_repaired(reply):
    play = episode(max_turns=3)
    assert play.step(reply) == Observation(prompts.MALFORMED, None)
    repaired = play.step(call([1, 2], [30, 40]))
    assert isinstance(repaired, Observation)
    assert repaired.image is not None


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ([-50, 5], [-10, 5]),
        ([200, 200], [300, 300]),
        ([7, 7], [7, 7]),
        (["1" + "0" * 400, 5], ["1" + "0" * 400, 9]),
    ],
)
def test_a_ray_outside_may_be_repaired(start, end):
    reply = call(str(start).replace("'", ""), str(end).replace("'", ""))
    assert episode().step(reply) == Observation(prompts.OUTSIDE, None)


def test_a_ray_that_leaves_the_image_is_cut():
    seen = episode().step(call([50, 40], [500, 40]))
    assert isinstance(seen, Observation)
    assert seen.image is not None
    assert seen.image.tobytes() == draw_ray(CLEAN, (50, 40), (112, 40)).tobytes()


def test_each_ray_is_drawn_on_the_clean_image():
    play = episode(max_turns=3)
    play.step(call([5, 5], [100, 5]))
    second = play.step(call([5, 50], [100, 50]))
    assert isinstance(second, Observation)
    assert second.image is not None
    assert second.image.tobytes() == draw_ray(CLEAN, (5, 50), (100, 50)).tobytes()
    assert CLEAN.getcolors() == [(112 * 84, (30, 60, 90))]  # nor is the image that was passed in touched


def test_without_an_image_there_is_nothing_to_draw_on():
    assert episode(images=()).step(call([1, 2], [30, 40])) == Observation(prompts.NO_IMAGE, None)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_ray_is_where_the_truth_is_in_every_frame(name):
    """Original pixels -> transcript -> drawn on the seen image: the same spot of the picture."""
    original, family = Size(500, 300), FAMILIES[name]
    seen_size = fit_to_grid(original, family.grid, 4096, 64 * family.grid**2)
    frame = Frame(family.frame_kind, original, seen_size)
    truth = GroundTruth(
        hand_bbox=(50, 100, 150, 200),
        pointing_ray=RaySegment(start=(150, 150), end=(400, 75)),
        obj_bbox=(380, 50, 450, 100),
        obj_name="cup",
    )
    image = Image.new("RGB", (seen_size.width, seen_size.height))
    play = Episode([image], frame, 2)
    first, second = transcript(truth, frame)
    seen = play.step(first)
    assert isinstance(seen, Observation)
    assert seen.image is not None
    rows, columns = np.nonzero(np.asarray(seen.image)[:, :, 0])
    scale = seen_size.width / 500, seen_size.height / 300
    ends = (columns.min(), rows.max()), (columns.max(), rows.min())
    assert np.allclose(ends[0], (150 * scale[0], 150 * scale[1]), atol=2.5)
    assert np.allclose(ends[1], (400 * scale[0], 75 * scale[1]), atol=2.5)
    assert play.step(second) == Ended("answer")


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="first image is 112x84, its frame says 56x56"):
        Episode([CLEAN], Frame("pixels", SIZE, Size(56, 56)), 2)
    with pytest.raises(ValueError, match="max_turns 0"):
        episode(max_turns=0)
    play = episode()
    play.step("<answer></answer>")
    with pytest.raises(RuntimeError, match="has ended"):
        play.step("more")


fragments = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "{", "}", "<answer>", "</answer>", "x", call([1, 2], [30, 40])),
        *(call([1, 2], [1, 2]), call([-1, -2], [-3, -4]), call([1, "2"], [3, 4]), call(["1e999", 2], [3, 4])),
    ]
)


@given(st.integers(1, 4), st.lists(st.lists(fragments, max_size=5).map("".join), min_size=4, max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_legal_turn(max_turns, replies):
    """An episode ends after at most `max_turns` turns, and shows an image exactly when it says that it drew one."""
    play = episode(max_turns)
    for turn, reply in enumerate(replies, 1):
        outcome = play.step(reply)
        if isinstance(outcome, Ended):
            assert outcome.reason == ("answer" if "<tool_call>" not in reply else outcome.reason)
            return
        assert turn < max_turns
        assert (outcome.image is not None) == (outcome.text == prompts.DRAWN)
    pytest.fail("the episode did not end")
