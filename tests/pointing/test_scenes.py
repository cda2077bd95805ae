"""Scenes: exact ground truth, one answer, the same bytes for the same seed, and datasets that survive a re-run."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from files.owned import ExistsError
from pointing import scene_layout, scenes
from pointing.dataset import DatasetOptions, read
from pointing.scene_drawing import PAINT, hull, paint, tile_outline
from pointing.scene_layout import FAR, RAY_MARGIN, REACH, SHAPES, Layout, SceneOptions, Tile, hand_box, lay_out
from pointing.scenes import render, seeds, write_scenes
from schemas.task import NEGATIVE

SMALL = SceneOptions(size=112)


def changed(layout: Layout, other: Layout, seed: int) -> tuple[int, int, int, int]:
    """The box of the pixels in which two layouts differ when drawn with the same light and texture."""
    a, b = (np.asarray(paint(each, 448, np.random.default_rng(seed)), np.int16) for each in (layout, other))
    box = Image.fromarray((np.abs(a - b).max(axis=2) > 24).astype(np.uint8) * 255).getbbox()
    assert box is not None
    return box


def test_a_scene_depends_on_its_seed_alone() -> None:
    forwards = {seed: render(seed, SMALL) for seed in (0, 1, 2, 3)}
    backwards = {seed: render(seed, SMALL) for seed in (3, 2, 1, 0)}
    for seed, scene in forwards.items():
        assert scene.image.tobytes() == backwards[seed].image.tobytes()
        assert (scene.truth, scene.objects) == (backwards[seed].truth, backwards[seed].objects)
    assert len({scene.image.tobytes() for scene in forwards.values()}) == 4


def test_a_seed_gives_the_same_scene_at_every_size() -> None:
    for seed in range(20):
        large, small = render(seed), render(seed, SMALL)
        assert large.negative == small.negative
        assert [o[1:] for o in large.objects] == [o[1:] for o in small.objects]
        if not large.negative:
            assert large.truth.hand_bbox == pytest.approx([4 * v for v in small.truth.hand_bbox or ()], abs=0.3)
            assert large.truth.obj_bbox == pytest.approx([4 * v for v in small.truth.obj_bbox or ()], abs=4.1)


@pytest.mark.parametrize("options", [SceneOptions(), FAR], ids=["near", "far"])
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_layouts_keep_their_promises(options: SceneOptions, seed: int) -> None:
    layout = lay_out(seed, options)
    assert options.objects[0] <= len(layout.tiles) <= options.objects[1]
    assert len({tile.name for tile in layout.tiles}) == len(layout.tiles)
    for tile in layout.tiles:
        outline = tile_outline(tile)
        assert options.radius[0] <= tile.radius <= options.radius[1]
        assert np.abs(outline - tile.centre).max() <= REACH * tile.radius
        assert min(outline.real.min(), outline.imag.min()) >= 0
        assert max(outline.real.max(), outline.imag.max()) <= 1
    if layout.target is None:
        assert layout.hand is None or layout.hand.fist
        return
    assert layout.hand is not None
    assert not layout.hand.fist
    box = hand_box(layout.hand)
    assert min(box) >= 0
    assert max(box) <= 1
    target = layout.tiles[layout.target]
    for tile in layout.tiles:
        ahead = (tile_outline(tile) - layout.hand.tip) / layout.hand.direction
        if tile is target:  # the finger's line passes near the centre, a free way ahead of the tip
            centre = (tile.centre - layout.hand.tip) / layout.hand.direction
            assert abs(centre.imag) <= 0.25 * tile.radius + 1e-12
            assert options.gap[0] <= centre.real - tile.radius <= options.gap[1] + 1e-12
            assert ahead.real.min() > 0
        elif ahead.real.max() > 0:  # every corner lies on one side of the ray, well off it
            assert ahead.imag.min() > RAY_MARGIN or ahead.imag.max() < -RAY_MARGIN


def test_a_tenth_are_negatives_and_some_of_them_show_a_fist() -> None:
    layouts = [lay_out(seed, SceneOptions()) for seed in range(2000)]
    negatives = [layout for layout in layouts if layout.target is None]
    fists = [layout for layout in negatives if layout.hand is not None]
    assert abs(len(negatives) - 200) < 4 * math.sqrt(2000 * 0.1 * 0.9)
    assert 0.25 < len(fists) / len(negatives) < 0.55


def test_far_scenes_hold_more_and_smaller_objects() -> None:
    near, far = ([render(seed, options) for seed in range(40)] for options in (SceneOptions(), FAR))
    assert {len(scene.objects) for scene in far} == {3, 4, 5}
    widths = [[box[2] - box[0] for scene in scenes for box, _, _ in scene.objects] for scenes in (near, far)]
    assert max(widths[1]) < 0.3 * 448  # a tile of radius 0.11, turned by 0.2 at the most
    assert np.mean(widths[1]) < 0.65 * np.mean(widths[0])


def test_negatives_say_so() -> None:
    scene = render(0, SceneOptions(size=112, negative=1.0))
    assert scene.negative
    assert scene.truth is NEGATIVE
    assert len(scene.objects) >= 2


def test_the_truth_is_that_of_the_layout() -> None:
    for seed in range(30):
        layout, scene = lay_out(seed, SceneOptions()), render(seed)
        if layout.target is None or layout.hand is None:
            continue
        truth, tile = scene.truth, layout.tiles[layout.target]
        assert truth.obj_name == tile.name
        assert truth.pointing_keypoints is not None
        assert truth.pointing_ray is not None
        assert scene.objects[0] == (truth.obj_bbox, tile.colour, tile.shape)
        base, tip = (complex(*point) for point in truth.pointing_keypoints)
        start, end = complex(*truth.pointing_ray.start), complex(*truth.pointing_ray.end)
        assert start == tip
        assert abs(((tip - base) / (end - start)).imag) < 0.02  # one line
        assert min(end.real, end.imag, 447 - end.real, 447 - end.imag) == 0  # to the border


def test_boxes_are_those_of_the_pixels_seen() -> None:
    """A recoloured tile changes exactly its visible inside: the box less the outline, also where a neighbour covers."""
    covered = 0
    for seed in range(40):
        layout = lay_out(seed, SceneOptions(overlap=1.0))
        boxes = {f"{o.colour} {o.shape}": o.box for o in render(seed, SceneOptions(overlap=1.0)).objects}
        for index, tile in enumerate(layout.tiles):
            recoloured = replace(tile, colour="yellow" if tile.colour != "yellow" else "purple")
            tiles = (*layout.tiles[:index], recoloured, *layout.tiles[index + 1 :])
            seen, box = changed(layout, replace(layout, tiles=tiles), seed), boxes[tile.name]
            outline = tile_outline(tile) * 448
            whole = np.ptp(outline.real) + np.ptp(outline.imag)
            covered += int(whole - (box[2] - box[0] + box[3] - box[1]) > 3)
            # A pointed corner holds some pixels of outline before the first of its inside.
            slack = {"star": 10, "triangle": 8, "diamond": 6}.get(tile.shape, 4)
            assert max(abs(a - b) for a, b in zip(seen, box, strict=True)) <= slack, (seed, tile.name)
    assert covered >= 3  # the sample holds tiles whose end is hidden


def test_the_fingertip_is_where_the_finger_ends() -> None:
    for seed in range(12):
        layout = lay_out(seed, SceneOptions(negative=0.0))
        hand = layout.hand
        assert hand is not None
        paler = replace(layout, hand=replace(hand, skin=0 if hand.skin > 4 else 7))
        images = [np.asarray(paint(each, 448, np.random.default_rng(0)), np.int16) for each in (layout, paler)]
        skin = np.abs(images[0] - images[1]).max(axis=2) > 30
        inside, outside = hand.tip - 0.008 * hand.direction, hand.tip + 0.012 * hand.direction
        assert skin[int(inside.imag * 448), int(inside.real * 448)]
        assert not skin[int(outside.imag * 448), int(outside.real * 448)]


def test_colours_survive_a_fourfold_reduction() -> None:
    names = list(PAINT)
    table = np.array([PAINT[name] for name in names])
    for seed in range(60):
        scene = render(seed)
        small = np.asarray(scene.image.reduce(4), np.int64)
        for box, colour, _ in scene.objects[:1]:
            x, y = round((box[0] + box[2]) / 8), round((box[1] + box[3]) / 8)
            patch = small[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(axis=0)
            assert names[int(np.square(table - patch).sum(axis=1).argmin())] == colour


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fill_their_radius(shape: str) -> None:
    outline = tile_outline(Tile(0j, 1.0, 0.0, "red", shape))
    width, height = np.ptp(outline.real), np.ptp(outline.imag)
    assert 1.5 < width < 2.1
    assert 1.5 < height < 2.1


def test_a_hull_is_that_of_its_circles() -> None:
    points = hull([(0j, 1.0), (4 + 0j, 0.5)])
    assert points.real.min() == pytest.approx(-1.0)
    assert points.real.max() == pytest.approx(4.5)
    assert points.imag.max() == pytest.approx(1.0)
    assert hull([(0j, 1.0)], grow=0.5).imag.max() == pytest.approx(1.5)


def test_seeds_of_splits_and_datasets_are_disjoint() -> None:
    ranges = [seeds(split, 10_000_000, seed) for split in scenes.SPLITS for seed in (0, 1)]
    edges = sorted((r.start, r.stop) for r in ranges)
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(edges))
    with pytest.raises(ValueError, match="split is 'dev'"):
        seeds("dev", 1)
    with pytest.raises(ValueError, match="10000001"):
        seeds("train", 10_000_001)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 20}, "size is 20"),
        ({"objects": (3, 2)}, "objects"),
        ({"negative": 1.5}, "negative is 1.5"),
        ({"radius": (0.1, 0.4)}, "radius"),
        ({"gap": (0.0, 0.1)}, "gap"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneOptions(**options)  # type: ignore[arg-type]


def test_a_full_table_is_an_error_and_not_an_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_layout, "ATTEMPTS", 2)
    crowded = SceneOptions(objects=(5, 5), radius=(0.2, 0.2), negative=0.0)
    with pytest.raises(ValueError, match="did not fit in 2 tries"):
        [lay_out(seed, crowded) for seed in range(20)]


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*.*")}


def test_a_written_dataset_reads_back_and_a_second_run_leaves_it(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "scenes", train=12, validation=3, test=2, options=SMALL)
    first = tree(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scenes"]  # nothing left beside it
    for split, count in (("train", 12), ("validation", 3), ("test", 2)):
        tasks = read(DatasetOptions(files=(str(folder / f"{split}.jsonl"),))).tasks
        assert [task.ground_truth for task in tasks] == [render(s, SMALL).truth for s in seeds(split, count)]
        with Image.open(tasks[-1].images[0]) as image:
            assert image.tobytes() == render(seeds(split, count)[-1], SMALL).image.tobytes()
        assert all(task.prompt == scenes.PROMPT for task in tasks)
    line = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert list(line) == ["prompt", "ground_truth", "images"]
    write_scenes(folder, train=12, validation=3, test=2, options=SMALL)
    assert tree(folder) == first


def test_another_dataset_is_replaced_when_asked_and_no_file_that_is_not_ours_ever(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "scenes", train=2, validation=1, test=1, options=SMALL)
    whole = tree(folder)
    with pytest.raises(ExistsError, match="holds what pointvg scenes wrote; add --overwrite"):
        write_scenes(folder, train=1, validation=1, test=1, seed=1, options=SMALL)
    assert tree(folder) == whole
    (folder / "images" / "mine.png").write_bytes(b"precious")
    write_scenes(folder, train=1, validation=1, test=1, seed=1, options=SMALL, overwrite=True)
    assert (folder / "images" / "mine.png").read_bytes() == b"precious"
    assert (folder / "train.jsonl").read_bytes() != whole["train.jsonl"][0]
    assert not (folder / "images" / "train-000001.png").exists()
    (folder / "images" / "test-000000.png").write_bytes(b"")
    with pytest.raises(ExistsError, match=r"changed since pointvg scenes wrote it.*images/test-000000\.png"):
        write_scenes(folder, train=2, validation=1, test=1, options=SMALL, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ExistsError, match=r"is not empty \(thesis\.txt\)"):
        write_scenes(tmp_path / "mine", train=1, validation=1, test=1, options=SMALL)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_folder_of_scenes_can_be_named_as_data(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "scenes", train=2, validation=1, test=1, options=SMALL)
    assert len(read(DatasetOptions(files=(str(folder),))).tasks) == 4


def test_a_run_cut_off_leaves_the_old_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_scenes(tmp_path / "scenes", train=2, validation=1, test=1, options=SMALL)
    before = tree(folder)

    def killed(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "encode_png", killed)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(folder, train=3, validation=1, test=1, options=SMALL, overwrite=True)
    assert tree(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["scenes"]
