"""Transcripts say what the ground truth says, in the model's frame, out of the listed phrases alone."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointing import prompts
from pointing.coordinates import FAMILIES, Frame, Size, fit_to_grid
from pointing.grammar import parse
from pointing.prompts import PHRASES, QUESTION, instruction, transcript
from pointing.rewards import score
from schemas.task import NEGATIVE, GroundTruth, RaySegment

TRUTH = GroundTruth(
    hand_bbox=(97, 161, 137, 225),
    pointing_keypoints=((124, 187), (132, 162)),
    pointing_ray=RaySegment(start=(132, 162), end=(170, 70)),
    obj_bbox=(136, 36, 206, 102),
    obj_name="fireplace",
)


def test_transcript_by_hand():
    assert transcript(TRUTH, Frame.identity()) == (
        "<think>The hand is at <|box_start|>[97, 161, 137, 225]<|box_end|>, the finger runs from "
        "<|point_start|>[124, 187]<|point_end|> to <|point_start|>[132, 162]<|point_end|>.</think>\n"
        '<tool_call>{"name": "draw_ray", "start": [132, 162], "end": [170, 70], "color": "red"}</tool_call>',
        "<answer>It points at <|caption_start|>fireplace<|caption_end|> "
        "<|box_start|>[136, 36, 206, 102]<|box_end|></answer>",
    )


def test_thousandths_by_hand():
    frame = Frame("thousandths", Size(1000, 500), Size(1008, 504))
    first, second = transcript(TRUTH, frame)
    assert "<|box_start|>[97, 322, 137, 450]<|box_end|>" in first
    assert '"start": [132, 324], "end": [170, 140]' in first
    assert "<|box_start|>[136, 72, 206, 204]<|box_end|>" in second


def test_negative_transcript_has_no_marks():
    assert transcript(NEGATIVE, Frame.identity()) == (
        "<think>There is no pointing hand.</think><answer>Nothing is pointed at.</answer>",
    )
    assert score(transcript(NEGATIVE, Frame.identity())[0], None).reward == 1.0


def test_keypoints_default_to_the_ray():
    truth = TRUTH.model_copy(update={"pointing_keypoints": None})
    assert parse(transcript(truth, Frame.identity())[0]).points == ((132, 162), (170, 70))


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        (["hand_bbox"], "without hand_bbox;"),
        (["pointing_ray"], "without pointing_ray;"),
        (["obj_bbox"], "without obj_bbox;"),
        (["obj_name"], "without obj_name;"),
        (["pointing_ray", "obj_bbox", "obj_name"], "without pointing_ray, obj_bbox, obj_name;"),
    ],
)
def test_partial_truth_is_refused_by_name(absent, message):
    with pytest.raises(ValueError, match=message):
        transcript(TRUTH.model_copy(update=dict.fromkeys(absent)), Frame.identity())


def test_what_cannot_be_written_is_refused():
    frame = Frame("pixels", Size(301, 226), Size(308, 224))
    for name in ("cup<|caption_end|>", "cup</answer>", "two\nlines", "a\x00b"):
        with pytest.raises(ValueError, match=r"obj_name=.* markup or control"):
            transcript(TRUTH.model_copy(update={"obj_name": name}), frame)
    for ray in (((400, 400), (500, 500)), ((10, 10), (10.2, 10.2)), ((10, 10), (10, 10))):
        broken = TRUTH.model_copy(update={"pointing_ray": RaySegment(start=ray[0], end=ray[1])})
        with pytest.raises(ValueError, match="lies outside the image of 301x226 or is too short"):
            transcript(broken, frame)


def test_coordinates_are_kept_in_the_frame():
    """A ray that leaves the image is cut, not bent; boxes are limited to the image."""
    frame = Frame("pixels", Size(100, 100), Size(56, 56))
    truth = TRUTH.model_copy(
        update={"hand_bbox": (-5, 90, 20, 110), "pointing_ray": RaySegment(start=(50, 50), end=(150, 250))}
    )
    said = parse(transcript(truth, frame)[0])
    assert said.boxes == ((0, 50, 11, 56),)
    assert said.rays == [((28, 28), (42, 56))]


def remainder(text):
    """What is left of a text when the phrases are taken out of it, longest first."""
    pattern = "|".join(re.escape(p) for p in sorted(PHRASES, key=len, reverse=True))
    return [part for part in re.split(pattern, text) if part]


def test_phrases_leave_only_numbers_and_the_caption():
    first, second = transcript(TRUTH, Frame.identity())
    assert all(re.fullmatch("[0-9]+", part) for part in remainder(first))
    assert len(remainder(first)) == 12
    assert remainder(second) == ["fireplace", "136", "36", "206", "102"]
    for text in (QUESTION, transcript(NEGATIVE, Frame.identity())[0], *OBSERVATIONS):
        assert remainder(text) == []
    assert len(set(PHRASES)) == len(PHRASES)


OBSERVATIONS = (prompts.DRAWN, prompts.MALFORMED, prompts.OUTSIDE, prompts.NO_IMAGE)


def test_no_phrase_is_cut_short_by_another():
    """A tokenizer that takes the longest phrase at each place finds the intended ones."""
    numbers_and_separators = [p for p in PHRASES if p in (", ",)]
    whole = [p for p in PHRASES if p not in numbers_and_separators]
    for phrase in whole:
        assert not [other for other in whole if other != phrase and phrase.startswith(other)]


def test_instruction():
    assert instruction("What?", detailed=False) == "What?"
    text = instruction()
    assert text.startswith(QUESTION)
    assert "whole pixels of the image" in text
    assert "thousandths" in instruction(kind="thousandths")
    assert "thousandths" not in text


def test_the_instruction_shows_the_form_that_is_rewarded():
    """Put numbers for the letters of the example, and the example itself earns a full format score."""
    example = re.sub(r"\b(x1|y1|x2|y2|x|y)\b", "5", instruction().split("If no hand")[0])
    said = parse(example)
    assert (len(said.boxes), len(said.tail_boxes), len(said.points), len(said.rays)) == (2, 1, 2, 1)
    assert said.captions == ("name of the object",)
    negative = transcript(NEGATIVE, Frame.identity())[0]
    assert instruction().endswith(negative)


sizes = st.tuples(st.integers(60, 3000), st.integers(60, 3000))
shares = st.tuples(*[st.floats(0, 1)] * 12)


@given(sizes, shares, st.sampled_from(sorted(FAMILIES)))
@settings(max_examples=150, deadline=None)
def test_transcripts_earn_nearly_everything(size, share, name):
    """The transcript of any ground truth, scored in the frame it is written in, loses only what rounding takes."""
    original = Size(*size)
    family = FAMILIES[name]
    frame = Frame(family.frame_kind, original, fit_to_grid(original, family.grid, 3136, 1_003_520))
    width, height = original.width, original.height

    def box(x, y, w, h):  # at least a quarter of each side, so that rounding is a small loss
        x1, y1 = x * 0.5 * width, y * 0.5 * height
        return x1, y1, x1 + (0.25 + 0.25 * w) * width, y1 + (0.25 + 0.25 * h) * height

    truth = GroundTruth(
        hand_bbox=box(*share[:4]),
        pointing_ray=RaySegment(
            start=(share[4] * 0.3 * width, share[5] * height), end=((0.7 + 0.3 * share[6]) * width, share[7] * height)
        ),
        obj_bbox=box(*share[8:]),
        obj_name="red star",
    )
    result = score("\n".join(transcript(truth, frame)), truth, frame)
    assert result.reward > 9.0
    assert (result.tool_count, result.obj_box_count, result.stage2_format) == (1, 1, 1)
