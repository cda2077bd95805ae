"""Transcripts in varied words read back as the ground truth, whatever the words; other templates are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointing.coordinates import FAMILIES, Frame, Size, fit_to_grid
from pointing.geometry import iou
from pointing.grammar import parse
from pointing.metrics import measure
from pointing.parts import predict
from pointing.rewards import score
from pointing.transcript_check import check_own
from policy.conversation.wordings import SHIPPED, Writer, read_wordings
from schemas.config.file import ConfigError, SettingError
from schemas.task import NEGATIVE, GroundTruth, RaySegment, Transcript
from schemas.wordings import Wordings

WRITER = Writer(read_wordings(), seed=0)
names = st.text(st.characters(codec="utf-8", categories=("L", "N", "Zs")), min_size=1).filter(
    lambda text: bool(text.strip()) and text.isprintable()
)
QUESTIONS = ("What is the hand pointing at?", "<|box_start|>[1, 2, 3, 4]<|box_end|> {{ hand }} </think>")


@st.composite
def positives(draw: st.DrawFn) -> tuple[GroundTruth, Frame]:
    """A truth whose parts survive rounding, and a frame of any family."""
    size = Size(draw(st.integers(120, 2000)), draw(st.integers(120, 2000)))
    family = FAMILIES[draw(st.sampled_from(sorted(FAMILIES)))]
    seen = fit_to_grid(size, family.grid, 56 * 56, 1280 * 28 * 28)

    def box() -> tuple[float, float, float, float]:
        left, top = draw(st.floats(0, 0.6)), draw(st.floats(0, 0.6))
        width, height = draw(st.floats(0.2, 0.4)), draw(st.floats(0.2, 0.4))
        return left * size.width, top * size.height, (left + width) * size.width, (top + height) * size.height

    def point() -> tuple[float, float]:
        return draw(st.floats(0, 1)) * size.width, draw(st.floats(0, 1)) * size.height

    start = draw(st.floats(0, 0.3)) * size.width, draw(st.floats(0, 0.3)) * size.height
    end = draw(st.floats(0.6, 1)) * size.width, draw(st.floats(0.6, 1)) * size.height
    truth = GroundTruth(
        hand_bbox=box(),
        pointing_keypoints=(point(), point()) if draw(st.booleans()) else None,
        pointing_ray=RaySegment(start=start, end=end),
        obj_bbox=box(),
        obj_name=draw(names),
    )
    return truth, Frame(family.frame_kind, size, seen)


def rounded(truth: GroundTruth, frame: Frame) -> GroundTruth:
    """The truth as the model's whole numbers can say it."""

    def back(point: tuple[float, float]) -> tuple[float, float]:
        return frame.to_original(*frame.from_original(*point))

    assert truth.hand_bbox is not None
    assert truth.obj_bbox is not None
    assert truth.pointing_ray is not None
    finger = truth.pointing_keypoints
    return truth.model_copy(
        update={
            "hand_bbox": frame.box_to_original(frame.box_from_original(truth.hand_bbox)),
            "obj_bbox": frame.box_to_original(frame.box_from_original(truth.obj_bbox)),
            "pointing_keypoints": finger and (back(finger[0]), back(finger[1])),
            "pointing_ray": RaySegment(start=back(truth.pointing_ray.start), end=back(truth.pointing_ray.end)),
        }
    )


@settings(max_examples=150, deadline=None)
@given(positives(), st.integers(0, 10**6), st.sampled_from(QUESTIONS))
def test_a_transcript_reads_back_as_the_truth_and_earns_all(
    pair: tuple[GroundTruth, Frame], key: int, question: str
) -> None:
    truth, frame = pair
    turns = WRITER.turns(truth, frame, f"train-{key}", question)
    reply = "".join(turns)
    said = predict(parse(reply, strict=True), frame)
    original, limits = frame.original, frame.limits
    half = [0.5 * original.width / limits.width + 1e-6, 0.5 * original.height / limits.height + 1e-6]
    assert said.hand is not None
    assert said.target is not None
    assert said.ray is not None
    for found, true in ((said.hand, truth.hand_bbox), (said.target, truth.obj_bbox)):
        assert true is not None
        assert all(abs(a - b) <= half[i % 2] for i, (a, b) in enumerate(zip(found, true, strict=True)))
    assert truth.pointing_ray is not None
    for found, true in zip(said.ray, (truth.pointing_ray.start, truth.pointing_ray.end), strict=True):
        assert all(abs(a - b) <= limit for a, b, limit in zip(found, true, half, strict=True))
    assert score(reply, rounded(truth, frame), frame).reward == pytest.approx(10.0)
    measured = measure(reply, truth, frame)
    assert measured.well_formed
    assert measured.caption_correct
    check_own(Transcript(turns=turns), truth, frame, "transcript")


@given(st.integers(0, 10**6), st.sampled_from(QUESTIONS))
def test_a_negatives_transcript_marks_nothing_and_earns_all(key: int, question: str) -> None:
    (turn,) = WRITER.turns(NEGATIVE, Frame.identity(), f"n-{key}", question)
    measured = measure(turn, NEGATIVE)
    assert (measured.marked, measured.well_formed) == (False, True)
    assert score(turn, None).reward == 1.0


def test_words_vary_by_task_and_seed_and_repeat() -> None:
    frame = Frame("pixels", Size(280, 280), Size(280, 280))
    truth = GroundTruth(
        hand_bbox=(10, 10, 50, 50),
        pointing_ray=RaySegment(start=(40, 40), end=(200, 200)),
        obj_bbox=(180, 180, 240, 240),
        obj_name="cup",
    )
    said = [WRITER.turns(truth, frame, f"train-{number}") for number in range(400)]
    words = read_wordings()
    assert len({first for first, _ in said}) == len(words.think)
    assert len({last for _, last in said}) == len(words.answer)
    assert len(set(said)) > len(words.think) * len(words.answer) * 0.9
    assert said == [WRITER.turns(truth, frame, f"train-{number}") for number in range(400)]
    other = Writer(words, seed=1)
    assert said[:20] != [other.turns(truth, frame, f"train-{number}") for number in range(20)]
    assert iou((10, 10, 50, 50), predict(parse(said[0][0]), frame).hand or (0, 0, 0, 0)) == 1.0


THINK, ANSWER = "{{ hand }} {{ base }} {{ tip }}", "{{ name }} {{ target }}"


def wordings(**changed: str) -> Wordings:
    lists = {"think": THINK, "answer": ANSWER, "negative_think": "No hand.", "negative_answer": "Nothing."} | changed
    return Wordings(**{name: (text,) for name, text in lists.items()})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("kind", "template", "said"),
    [
        ("think", "{{ hand }} {{ base }}", "does not say all parts once and in order"),
        ("think", "{{ hand }} {{ tip }} {{ base }}", "write {{ hand }}, {{ base }}, {{ tip }}"),
        ("think", THINK + "{{ hand }}", "holds tags of its own"),
        ("think", "At " + THINK + "</think><answer>", "holds tags of its own"),
        ("think", "At " + THINK + " {{ target }}", "'target' is undefined"),
        ("think", "At {{ hand", "it is given hand, base, tip, label, question"),
        ("answer", "It is {{ name }}", "does not say all parts"),
        ("answer", "It is {{ label }} {{ target }}", "does not say all parts"),
        ("negative_think", "  ", "has no words"),
        ("negative_answer", "No {{ label }}.", "'label' is undefined"),
        ("negative_answer", "<answer>", "holds tags of its own"),
    ],
)
def test_a_template_that_would_teach_another_form_is_refused(kind: str, template: str, said: str) -> None:
    with pytest.raises(SettingError) as refused:
        Writer(wordings(**{"think": "At " + THINK, "answer": "So " + ANSWER, kind: template}), seed=0)
    assert f"{kind}[0]" in str(refused.value)
    assert said in str(refused.value)


def test_a_file_of_templates_is_refused_by_line(tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    (tmp_path / "w.yaml").write_text(text + "\nthinking: []\n")
    with pytest.raises(ConfigError, match=r"w.yaml:\d+: thinking"):
        read_wordings(tmp_path / "w.yaml")
