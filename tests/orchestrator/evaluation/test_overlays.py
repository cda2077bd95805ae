"""Pictures: marks land where the coordinates say, hostile replies are drawn too, and curves show what was logged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.evaluation.overlays import REPLY, TRUTH, contact_sheet, overlay, plot_curves
from orchestrator.telemetry.curves import PANELS, read_series, smoothed
from pointing.coordinates import Frame, Size
from pointing.prompts import transcript
from pointing.scenes import SceneOptions, render
from schemas.task import NEGATIVE, GroundTruth, RaySegment

KNOWN = GroundTruth(
    hand_bbox=(100, 300, 200, 400),
    obj_bbox=(400, 100, 500, 200),
    pointing_ray=RaySegment(start=(200, 300), end=(600, 0)),
)


def grey(width: int = 640, height: int = 480) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))


def where(picture: Image.Image, colour: tuple[int, int, int], height: int) -> tuple[int, int, int, int] | None:
    """The box of the pixels of a colour above the legend."""
    found = (np.asarray(picture)[:height] == colour).all(axis=2)
    return Image.fromarray(found.astype(np.uint8) * 255).getbbox()


def test_boxes_land_where_frame_and_truth_say() -> None:
    frame = Frame("thousandths", Size(640, 480), Size(644, 476))
    reply = "<|box_start|>[500, 250, 750, 500]<|box_end|>"  # of 640x480: 320, 120, 480, 240
    picture = overlay(grey(), NEGATIVE, reply, frame)
    assert where(picture, REPLY, 480) == (320, 120, 481, 241)
    assert where(picture, TRUTH, 480) is None
    truth = GroundTruth(obj_bbox=(320, 120, 480, 240))
    assert where(overlay(grey(), truth, "", frame), TRUTH, 480) == (320, 120, 481, 241)


def test_small_images_are_enlarged_and_large_ones_reduced_with_their_marks() -> None:
    truth = GroundTruth(obj_bbox=(28, 28, 56, 84))
    small = overlay(grey(112, 112), truth, "", Frame.identity())
    assert small.width == 448
    assert where(small, TRUTH, 448) == (112, 112, 225, 337)
    large = overlay(grey(4096, 2048), GroundTruth(obj_bbox=(400, 400, 800, 800)), "", Frame.identity())
    assert large.width == 1024
    assert where(large, TRUTH, 512) == (100, 100, 201, 201)


def test_the_arrow_runs_along_the_ray() -> None:
    pixels = np.asarray(overlay(grey(), KNOWN, "", Frame.identity()))
    for share in (0.2, 0.5, 0.8):
        x, y = round(200 + share * 400), round(300 - share * 300)
        assert (pixels[y, x] == TRUTH).all()
    assert (pixels[20, 20] == 128).all()


def test_a_perfect_reply_covers_the_truth() -> None:
    scene = render(0, SceneOptions(size=112, negative=0.0))
    frame = Frame("pixels", Size(112, 112), Size(112, 112))
    picture = overlay(scene.image, scene.truth, "\n".join(transcript(scene.truth, frame)), frame)
    found = where(picture, REPLY, 448)
    assert found is not None
    assert scene.truth.hand_bbox is not None
    assert scene.truth.obj_bbox is not None
    left = min(scene.truth.hand_bbox[0], scene.truth.obj_bbox[0]) * 4
    assert found[0] <= left + 4


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "<|box_start|>[" + "9" * 400 + ", 1, 2, 3]<|box_end|>",
        "<|box_start|>[900, 900, -5, -5]<|box_end|>",
        "<|box_start|>[5, 5, 5, 5]<|box_end|><|caption_start|>" + "long \n\x00 " * 5000 + "<|caption_end|>",
        '<tool_call>{"name": "draw_ray", "start": [5, 5], "end": [5, 5], "color": "red"}</tool_call>',
        '<tool_call>{"name": "draw_ray", "start": [-50, -5], "end": [-9, -5], "color": "red"}</tool_call>',
        '<tool_call>{"name": "draw_ray", "start": [1e400, 5], "end": [9, 5], "color": "red"}</tool_call>',
        "<|caption_start|>\u676f\u5b50 \U0001f449<|caption_end|>",
    ],
)
def test_any_reply_can_be_drawn(reply: str) -> None:
    for truth in (KNOWN, NEGATIVE):
        picture = overlay(grey(), truth, reply, Frame("thousandths", Size(640, 480), Size(644, 476)))
        assert picture.width == 640
        assert picture.height > 480


def test_a_sheet_holds_every_image_in_its_place() -> None:
    colours = [(10 * i, 0, 0) for i in range(1, 6)]
    images = [Image.new("RGB", (40, 20 + 10 * (i % 2)), colour) for i, colour in enumerate(colours)]
    sheet = contact_sheet(images, columns=2)
    assert sheet.size == (2 * 40 + 3 * 8, 30 + 30 + 20 + 4 * 8)
    corners = [(8, 8), (56, 8), (8, 46), (56, 46), (8, 84)]
    assert [sheet.getpixel(corner) for corner in corners] == colours
    assert contact_sheet([grey(896, 200)], columns=4).size == (448 + 16, 100 + 16)
    with pytest.raises(ValueError, match="0 images"):
        contact_sheet([])


def test_running_means_by_hand() -> None:
    assert smoothed([1.0, 5.0]) == [1.0, 5.0]
    values = [float(i % 2) for i in range(40)]  # a window of 5 in the middle, 3 at the ends
    assert smoothed(values)[:3] == pytest.approx([1 / 3, 2 / 4, 2 / 5])
    assert smoothed(values)[-1] == pytest.approx(2 / 3)
    assert smoothed([2.5] * 100) == pytest.approx([2.5] * 100)


def log(folder: Path, *records: object) -> Path:
    file = folder / "metrics.jsonl"
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return file


def test_repeated_steps_count_once_and_broken_lines_not_at_all(tmp_path: Path) -> None:
    file = log(
        tmp_path,
        {"kind": "train", "step": 0, "time": 1.0, "reward/mean": 1.0},
        {"kind": "train", "step": 1, "reward/mean": 2.0, "learner/kl": None},
        {"kind": "train", "step": 2, "reward/mean": 3.0},
        '{"kind": "train", "step": 3, "rewa',
        "[1]",
        {"kind": "validation", "step": 1, "sampled/reward": 9.0},
        {"kind": "train", "step": 2, "reward/mean": 4.0},
        {"kind": "train", "step": 1, "reward/mean": 5.0, "note": "x"},
    )
    assert read_series(file) == {
        ("train", "reward/mean"): ([0, 1, 2], [1.0, 5.0, 4.0]),
        ("validation", "sampled/reward"): ([1], [9.0]),
    }


def test_there_is_a_panel_for_each_thing_logged(tmp_path: Path) -> None:
    file = log(tmp_path, *({"kind": "train", "step": i, "reward/mean": i, "learner/kl": 0.1} for i in range(50)))
    two = plot_curves(file, tmp_path / "curves.png")
    with Image.open(two) as image:
        assert image.size == (round(2 * 3.9 * 110), round(2.6 * 110))
        blue = (np.abs(np.asarray(image.convert("RGB"), np.int16) - (0x2F, 0x6F, 0xB3)).max(axis=2) < 12).nonzero()
    assert len(blue[0]) > 200
    assert blue[1].min() < image.width / 2 < blue[1].max()  # a curve in either panel
    everything = {line.key: 1.0 for _, lines in PANELS for line in lines}
    kinds = ({"kind": kind, "step": step, **everything} for kind in ("train", "validation") for step in range(3))
    with Image.open(plot_curves(log(tmp_path, *kinds), tmp_path / "curves.png")) as image:
        assert image.height == round(2.6 * 110 * -(-len(PANELS) // 4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_a_run_without_numbers_still_gets_a_picture(tmp_path: Path) -> None:
    with Image.open(plot_curves(log(tmp_path), tmp_path / "curves.png")) as image:
        assert np.asarray(image.convert("L")).min() < 200  # the sentence that says so
