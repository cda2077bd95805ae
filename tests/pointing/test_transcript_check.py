"""Transcripts of one's own: what is taken, and every planted defect refused by field, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pointing.coordinates import Frame, Size
from pointing.prompts import transcript
from pointing.transcript_check import check_own, read_transcript
from schemas.row_problem import FieldError
from schemas.task import NEGATIVE, GroundTruth, RaySegment, Transcript

TRUTH = GroundTruth(
    hand_bbox=(97, 161, 137, 225),
    pointing_keypoints=((124, 187), (132, 162)),
    pointing_ray=RaySegment(start=(132, 162), end=(170, 70)),
    obj_bbox=(136, 36, 206, 102),
    obj_name="fireplace",
)
FRAME = Frame("pixels", Size(280, 280), Size(280, 280))
FIRST, LAST = transcript(TRUTH, FRAME)


def check(*turns: str, truth: GroundTruth = TRUTH, **frame: Any) -> None:
    check_own(Transcript(turns=turns, **frame), truth, FRAME, "transcript")


def test_one_text_is_cut_behind_its_calls() -> None:
    read = read_transcript({"transcript": f"{FIRST}\n{LAST}\n"}, "transcript")
    assert read is not None
    assert read.turns == (FIRST, LAST)
    assert read_transcript({"transcript": [FIRST, LAST]}, "transcript") == read
    assert read_transcript({"transcript": None}, "transcript") is None
    assert read_transcript({}, "transcript") is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"t": 5}, "t=5: is no transcript"),
        ({"t": []}, "t=[]: is no transcript"),
        ({"t": ["a", " "]}, "t[1]=' ': holds a turn without words"),
        ({"t": ["a", None]}, "t[1]=None: holds a turn without words"),
        ({"t": ""}, "t='': holds a turn without words"),
        ({"t": "a", "t_frame": "pixels"}, "t_frame='pixels': is no frame"),
        ({"t": "a", "t_frame": {"kind": "metres", "seen_size": [1, 2]}}, "is no frame"),
        ({"t": "a", "t_frame": {"kind": "pixels"}}, "is no frame"),
    ],
)
def test_what_is_no_transcript_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError) as refused:
        read_transcript(fields, "t")
    assert said in str(refused.value)


def test_free_words_a_second_ray_and_unknown_parts_are_taken() -> None:
    check(FIRST.replace("The hand is at", "Look, a hand:"), LAST)
    wrong = FIRST.replace('"end": [170, 70]', '"end": [168, 70]')
    check(wrong, FIRST.replace("<think>", "<think>Better: "), "<think>Now.</think>" + LAST)
    partial = TRUTH.model_copy(update={"hand_bbox": None, "pointing_keypoints": None, "pointing_ray": None})
    check(FIRST, LAST, truth=partial)
    check("<think>Hm.</think><answer>No hand points.</answer>", truth=NEGATIVE)
    check(FIRST, LAST, kind="pixels", seen_size=(280, 280))


Change = Callable[[], tuple[str, ...]]
DEFECTS: list[tuple[str, Change, str]] = [
    ("a cut call", lambda: (FIRST[:-4], LAST), "transcript[0]"),
    ("no call", lambda: (LAST,), "draws no ray"),
    ("a call in the last turn", lambda: (FIRST, LAST + FIRST), "calls a tool, and no turn comes after it"),
    ("words after the call", lambda: (FIRST + " Then.", LAST), "does not end in one tool call"),
    ("two calls", lambda: (FIRST + FIRST, LAST), "does not end in one tool call"),
    ("no answer", lambda: (FIRST, LAST.replace("<answer>", "")), "transcript[1]"),
    ("answer tags turned round", lambda: (FIRST, f"</answer>{LAST[8:-9]}<answer>"), "has no answer"),
    ("an early answer", lambda: ("<answer>" + FIRST, LAST), "answers, and calls a tool"),
    ("fractions", lambda: (FIRST.replace("[97,", "[97.5,"), LAST), "holds <|box_start|> 1 times, of which 0"),
    ("a point of three", lambda: (FIRST.replace("[124, 187]", "[124, 187, 1]"), LAST), "holds <|point_start|> 2 times"),
    ("an open caption", lambda: (FIRST, LAST.replace("<|caption_end|>", "")), "holds <|caption_start|> 1 times"),
    ("a call of another colour", lambda: (FIRST.replace('"red"', '"blue"'), LAST), "tool call that cannot be read"),
    ("a call with fractions", lambda: (FIRST.replace("[170, 70]", "[170.5, 70]"), LAST), "cannot be read"),
    ("outside", lambda: (FIRST, LAST.replace("206, 102", "206, 1020")), "outside the model's frame of 280x280 pixels"),
    ("negative", lambda: (FIRST.replace("[97,", "[-97,"), LAST), "outside the model's frame"),
    ("a vision token", lambda: ("<|image_pad|>" + FIRST, LAST), "holds <|image_pad|>"),
    ("an end of turn", lambda: (FIRST, LAST + "<|im_end|>"), "holds <|im_end|>"),
    (
        "no hand",
        lambda: (FIRST.replace("<|box_start|>[97, 161, 137, 225]<|box_end|>", "here"), LAST),
        "transcript[0]: has no box of the hand",
    ),
    (
        "no target",
        lambda: (FIRST, LAST.replace("<|box_start|>[136, 36, 206, 102]<|box_end|>", "")),
        "has 0 boxes behind the ray",
    ),
    (
        "two targets",
        lambda: (FIRST, LAST.replace("</answer>", "<|box_start|>[1, 2, 3, 4]<|box_end|></answer>")),
        "2 boxes",
    ),
    ("no name", lambda: (FIRST, LAST.replace("fireplace", " ")), "does not name the target once"),
    (
        "another target",
        lambda: (FIRST, LAST.replace("[136, 36, 206, 102]", "[10, 200, 60, 260]")),
        "0.00 with obj_bbox",
    ),
    ("another hand", lambda: (FIRST.replace("[97, 161, 137, 225]", "[10, 10, 60, 60]"), LAST), "0.00 with hand_bbox"),
    ("a turned ray", lambda: (FIRST.replace('"end": [170, 70]', '"end": [200, 250]'), LAST), "degrees off"),
]


@pytest.mark.parametrize(("name", "turns", "said"), DEFECTS, ids=[name for name, _, _ in DEFECTS])
def test_every_planted_defect_is_named(name: str, turns: Change, said: str) -> None:
    with pytest.raises(FieldError) as refused:
        check(*turns())
    assert said in str(refused.value)
    assert refused.value.remedy


def test_marks_on_a_negative_and_other_frames_are_refused() -> None:
    with pytest.raises(FieldError, match="says that nothing is pointed at"):
        check(FIRST, LAST, truth=NEGATIVE)
    with pytest.raises(FieldError, match="is written in thousandths, and the model speaks in pixels"):
        check(FIRST, LAST, kind="thousandths")
    with pytest.raises(FieldError, match="of images seen as 560x560, and the model sees 280x280"):
        check(FIRST, LAST, kind="pixels", seen_size=(560, 560))


def test_a_box_of_two_pixels_may_be_off_by_rounding() -> None:
    coarse = Frame("pixels", Size(2800, 2800), Size(280, 280))
    truth = TRUTH.model_copy(update={"obj_bbox": (1364, 364, 1372, 372), "hand_bbox": None, "pointing_ray": None})
    last = LAST.replace("[136, 36, 206, 102]", "[136, 36, 137, 37]")
    check_own(Transcript(turns=(FIRST, last)), truth, coarse, "t")
    with pytest.raises(FieldError, match="obj_bbox"):
        check_own(Transcript(turns=(FIRST, LAST)), truth, coarse, "t")
