"""What a page shows of replies: which tasks, which marks, which terms."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.report.cases import MOST_CASES, choose
from orchestrator.report.pictures import LONGEST, Pictures
from orchestrator.report.replies import LONGEST_TURN, DrawnBox, Marks, reply_view, truth_view
from pointing.scenes import write_scenes
from schemas.scoring import SCORE_TERMS, RewardRules

REPLY = (
    "<|box_start|>[0, 0, 10, 10]<|box_end|>"
    '<tool_call>{"name": "draw_ray", "start": [1, 2], "end": [3, 4], "color": "red"}</tool_call>'
    "<|caption_start|> cup <|caption_end|><|box_start|>[30, 40, 20, 20]<|box_end|>"
)


def row(**given: object) -> dict[str, object]:
    scores = dict.fromkeys(SCORE_TERMS) | {"hand_iou": 0.5, "obj_iou": 0.25, "tool_count": 1.0}
    base = {"reply": REPLY, "ground_truth": '{"obj_bbox": [20, 20, 30, 40]}', "turn_texts": ["a", "b"]}
    frame = {"frame": "pixels", "original_size": [200, 100], "seen_size": [100, 50]}
    return {**base, **frame, **scores, "kind": "greedy", "sample": 0, "reward": 2.5, "ended_by": "answer"} | given


def test_marks_are_in_pixels_of_the_original() -> None:
    """The model saw the image at half its size."""
    view = reply_view(row(), "step 0", RewardRules())
    assert view.marks.hand == DrawnBox(0, 0, 20, 20)
    assert view.marks.target == DrawnBox(40, 40, 20, 40)
    assert view.marks.ray == ((2, 4), (6, 8))
    assert view.name == "cup"
    assert truth_view('{"obj_bbox": [20, 20, 30, 40]}').marks == Marks(None, DrawnBox(20, 20, 10, 20), None)
    assert truth_view("none").negative


def test_a_term_is_worth_its_weight() -> None:
    terms = {term.name: (term.value, term.points) for term in reply_view(row(), "step 0", RewardRules()).terms}
    assert terms == {"hand_iou": ("0.5", "0.5"), "obj_iou": ("0.25", "1.25"), "tool_count": ("1", "")}
    own = reply_view(row(), "step 0", None).terms
    assert [term.points for term in own] == ["", "", ""]


def test_what_is_too_long_or_too_far_is_cut_or_left_out() -> None:
    view = reply_view(row(turn_texts=["x" * (LONGEST_TURN + 5)], reply=REPLY.replace("30, 40", "9" * 300)), "", None)
    assert view.turns[0].endswith("… (5 more characters)")
    assert view.marks.target is None
    assert DrawnBox.of((0.0, 0.0, math.nan, 1.0)) is None


_rewards = st.dictionaries(st.sampled_from([f"t{n}" for n in range(60)]), st.floats(0, 10))


@given(_rewards, _rewards)
def test_tasks_are_chosen_once_and_the_worst_first(before: dict[str, float], after: dict[str, float]) -> None:
    chosen = choose(before, after)
    assert len(chosen) == min(MOST_CASES, len(after))
    assert set(chosen) <= set(after)
    if chosen:
        assert after[next(iter(chosen))] == min(after.values())
    for task, why in chosen.items():
        if why == "fallen":
            assert after[task] < before[task]
        if why == "risen":
            assert after[task] > before[task]


def test_what_moved_most_is_shown_even_where_it_is_not_the_worst() -> None:
    before = {f"t{n}": 5.0 for n in range(50)} | {"fell": 10.0, "rose": 5.0}
    after = {f"t{n}": 5.0 for n in range(50)} | {"fell": 6.0, "rose": 9.0}
    chosen = choose(before, after)
    assert chosen["fell"] == "fallen"
    assert chosen["rose"] == "risen"


def test_an_image_is_made_small_once_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    Image.effect_noise((900, 600), 80).save(tmp_path / "large.png")
    (tmp_path / "broken.png").write_text("no image")
    pictures = Pictures({"a": str(tmp_path / "large.png"), "b": str(tmp_path / "broken.png")})
    first = pictures.of("a")
    assert first is not None
    assert (first.width, first.height) == (900, 600)  # marks are in pixels of the original
    assert first.uri.startswith("data:image/jpeg;base64,")
    assert len(first.uri) < 4 / 3 * LONGEST**2
    assert pictures.of("a") is first
    assert pictures.of("b") is None
    assert pictures.of("c") is None
    assert pictures.all == (first,)
    [note] = pictures.notes()
    assert note.startswith("2 images cannot be read; that of b: ")
    assert "broken.png: cannot be read as an image" in note


def test_drawn_scenes_stay_sharp(tmp_path: Path) -> None:
    write_scenes(tmp_path, train=0, validation=1, test=0, seed=1)
    [image] = tmp_path.rglob("*.png")
    picture = Pictures({"a": str(image)}).of("a")
    assert picture is not None
    assert len(picture.uri) < 200_000


@pytest.mark.parametrize("missing", [0, 1])
def test_a_page_without_room_says_how_many(tmp_path: Path, missing: int) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    pictures = Pictures({"a": str(tmp_path / "a.png")}, most_bytes=0 if missing else 10_000)
    assert (pictures.of("a") is None) == bool(missing)
    assert pictures.notes() == (["1 images are left out, lest the page grow too large"] if missing else [])
