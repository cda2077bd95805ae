"""Formats of other tools: what goes out comes back, and what cannot be read is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from files.owned import ExistsError
from pointing.data_rows import DatasetError
from pointing.dataset import DatasetOptions, read
from pointing.formats.convert import FormatName, convert
from pointing.scenes import write_scenes
from schemas.task import GroundTruth

DATA = os.environ.get("POINTVG_TEST_DATA")
SIZE = (640, 480)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE).save(tmp_path / name)
    return tmp_path


def write(folder: Path, *truths: object) -> Path:
    file = folder / "in.jsonl"
    rows = [{"prompt": f"<image>Which {n}?", "images": ["a.png"], "ground_truth": t} for n, t in enumerate(truths)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def tasks_of(file: Path, folder: Path) -> list[tuple[str, GroundTruth]]:
    return [(t.question, t.ground_truth) for t in read(DatasetOptions(files=(str(file),), image_dir=str(folder))).tasks]


def there_and_back(folder: Path, file: Path, form: FormatName) -> Path:
    there = folder / "there.jsonl"
    convert("published", file, form, there, folder, overwrite=True)
    convert(form, there, "published", folder / "back.jsonl", folder, overwrite=True)
    return folder / "back.jsonl"


def flat(truth: GroundTruth) -> list[float]:
    parts = [truth.hand_bbox or (), truth.obj_bbox or (), *(truth.pointing_keypoints or ())]
    ray = truth.pointing_ray
    return [value for part in [*parts, *((ray.start, ray.end) if ray else ())] for value in part]


x, y = st.floats(2, 600), st.floats(2, 440)
box = st.tuples(x, y, st.floats(1, 38), st.floats(1, 38)).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
segment = st.tuples(x, y, st.floats(1, 38), st.floats(1, 38)).map(
    lambda s: [[s[0], s[1]], [s[0] + s[2], s[1] - s[3] / 40]]
)
truth = st.one_of(
    st.just("none"),
    st.fixed_dictionaries(
        {"hand_bbox": box, "obj_bbox": box, "obj_name": st.text(min_size=1, max_size=8).filter(lambda t: t != "hand")},
        optional={
            "pointing_keypoints": segment,
            "pointing_ray": segment.map(lambda s: {"start": s[0], "end": s[1]}),
        },
    ),
)


@pytest.mark.parametrize("form", ["published", "normalised", "coco", "label-studio"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(truths=st.lists(truth, min_size=1, max_size=3))
def test_what_goes_out_comes_back(folder: Path, form: FormatName, truths: list[Any]) -> None:
    file = write(folder, *truths)
    before, after = tasks_of(file, folder), tasks_of(there_and_back(folder, file, form), folder)
    assert [question for question, _ in after] == [question for question, _ in before]
    for (_, sent), (_, came) in zip(before, after, strict=True):
        assert came.negative == sent.negative
        assert came.obj_name == sent.obj_name
        assert [value is None for value in vars(came).values()] == [value is None for value in vars(sent).values()]
        assert flat(came) == pytest.approx(flat(sent), abs=1e-9)


@pytest.mark.parametrize("form", ["normalised", "coco", "label-studio"])
def test_scenes_come_back(tmp_path: Path, form: FormatName) -> None:
    scenes = write_scenes(tmp_path / "s", train=60, validation=0, test=0)
    back = there_and_back(scenes, scenes / "train.jsonl", form)
    sent, came = tasks_of(scenes / "train.jsonl", scenes), tasks_of(back, scenes)
    assert any(each.negative for _, each in sent)
    for (_, a), (_, b) in zip(sent, came, strict=True):
        assert flat(b) == pytest.approx(flat(a))


def test_coco_by_hand(folder: Path) -> None:
    coco = {
        "images": [{"id": 7, "file_name": "a.png", "width": 640, "height": 480}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "hand", "keypoints": ["tip", "wrist", "base"]}, {"id": 2, "name": "cup"}],
        "annotations": [
            {"image_id": 7, "category_id": 2, "bbox": [300, 100, 40, 50]},
            {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "keypoints": [38, 25, 2, 0, 0, 0, 20, 30, 1]},
        ],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    made = convert("coco", folder / "coco.json", "published", folder / "o.jsonl", folder)
    assert (made.examples, made.lost) == (2, 0)
    (_, first), (_, second) = tasks_of(folder / "o.jsonl", folder)
    assert first.hand_bbox == (10, 20, 40, 60)
    assert first.pointing_keypoints == ((20, 30), (38, 25))
    assert (first.obj_bbox, first.obj_name, first.pointing_ray) == ((300, 100, 340, 150), "cup", None)
    assert second.negative


def test_label_studio_by_hand(folder: Path) -> None:
    rectangle = {"x": 50, "y": 25, "width": 10, "height": 50, "rotation": 0, "rectanglelabels": ["target"]}
    task = {
        "data": {"image": "a.png"},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {
                "result": [
                    {"type": "rectanglelabels", "value": rectangle},
                    {"type": "textarea", "from_name": "name", "value": {"text": ["red", "cup"]}},
                ]
            },
        ],
    }
    (folder / "ls.json").write_text(json.dumps([task, {"data": {"image": "b.png"}, "annotations": []}]))
    assert convert("label-studio", folder / "ls.json", "published", folder / "o.jsonl", folder).examples == 1
    ((question, only),) = tasks_of(folder / "o.jsonl", folder)
    assert question == "What is the hand pointing at?"
    assert (only.obj_bbox, only.obj_name) == ((320, 120, 384, 360), "red cup")


def test_yourefit_keeps_targets_and_phrases(folder: Path) -> None:
    entries = [["a.png", [480, 640], [10, 20, 30, 40], "the red cup", []], ["b.png", None, [1, 2, 30, 40], "that"]]
    (folder / "list.json").write_text(json.dumps(entries))
    convert("yourefit", folder / "list.json", "published", folder / "o.jsonl", folder)
    tasks = tasks_of(folder / "o.jsonl", folder)
    assert [question for question, _ in tasks] == ["the red cup", "that"]
    assert tasks_of(there_and_back(folder, folder / "o.jsonl", "yourefit"), folder) == tasks
    assert convert("published", write(folder, "none"), "yourefit", folder / "none.json", folder).lost == 1
    assert json.loads((folder / "none.json").read_text()) == []


@pytest.mark.skipif(DATA is None, reason="POINTVG_TEST_DATA is not set: no photographs of TI1K")
def test_ti1k_gives_the_hands_that_are_known(tmp_path: Path) -> None:
    """The first line of its label.txt against what is known of the photograph in pixels."""
    photos = Path(str(DATA)) / "real_photos"
    items = json.loads((photos / "manifest.json").read_text())["items"]
    known = next(each for each in items if each["path"].endswith("TI1K_IMAGE_0010.jpg"))
    line = "TI1K_IMAGE_0010.jpg 0.27451 0.35131 0.62582 1.00000 0.53268 0.49346 0.50490 0.42157"
    (tmp_path / "label.txt").write_text(line + "\n")
    convert("ti1k", tmp_path / "label.txt", "published", tmp_path / "o.jsonl", photos / "ti1k")
    ((_, only),) = tasks_of(tmp_path / "o.jsonl", photos / "ti1k")
    assert only.hand_bbox == pytest.approx(known["annotations"]["hand_bbox"], abs=0.1)


@pytest.mark.parametrize(
    ("source", "content", "words"),
    [
        ("coco", "{", "not JSON"),
        ("coco", "[]", "no COCO file"),
        ("coco", {"images": [{"id": 1}], "annotations": [], "categories": []}, r"in:1: images=.*cannot be read"),
        ("label-studio", {}, "holds a dict"),
        (
            "label-studio",
            [{"data": {"image": "lost.png"}, "annotations": [{"result": []}]}],
            r"in:1: data\.image='l",
        ),
        ("label-studio", [7], r"in:1: task=7: cannot be read"),
        ("yourefit", [["a.png", [1, 1], [1, 2, 3], "cup"]], r"in:1: entry\.obj_bbox"),
        ("yourefit", [["a.png"]], r"in:1: entry=.*expected \[image, size, box, phrase"),
        ("ti1k", "a.png 0.1 0.2", r"in:1: line='a\.png 0\.1 0\.2': expected the image and 8 numbers"),
        ("ti1k", "a.png .5 .5 .4 .9 0 0 0 0", r"in:1: ground_truth\.hand_bbox=.*without area"),
        ("ti1k", "", "holds nothing to convert"),
    ],
)
def test_what_cannot_be_read_is_named_and_nothing_is_written(
    folder: Path, source: FormatName, content: object, words: str
) -> None:
    (folder / "in").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DatasetError, match=words):
        convert(source, folder / "in", "published", folder / "out.jsonl", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png", "in"]


def test_a_file_that_is_there_stays(folder: Path) -> None:
    (folder / "mine.json").write_text("mine")
    with pytest.raises(ExistsError, match="add --overwrite"):
        convert("published", write(folder, "none"), "coco", folder / "mine.json", folder)
    assert (folder / "mine.json").read_text() == "mine"
