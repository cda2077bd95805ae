"""Frames: round trips at sizes off the grid, and the grid rule against the one that Qwen's processors use."""

import math
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pointing.coordinates import FAMILIES, Frame, Size, fit_to_grid
from pointing.geometry import angle

SIZES = [Size(640, 480), Size(301, 226), Size(1920, 1080), Size(57, 113), Size(1000, 1000), Size(4032, 3024)]
BOUNDS = (56 * 56, 1280 * 28 * 28)


def frame_of(name, original):
    family = FAMILIES[name]
    return Frame(family.frame_kind, original, fit_to_grid(original, family.grid, *BOUNDS))


def test_families():
    assert {name: (f.frame_kind, f.patch, f.grid) for name, f in FAMILIES.items()} == {
        "qwen2_vl": ("thousandths", 14, 28),
        "qwen2_5_vl": ("pixels", 14, 28),
        "qwen3_vl": ("thousandths", 16, 32),
    }
    assert all(name == family.name for name, family in FAMILIES.items())


def test_conversions_by_hand():
    frame = Frame("pixels", original=Size(1280, 720), seen=Size(644, 364))
    assert frame.from_original(640, 360) == (322, 182)
    assert frame.to_original(322, 182) == (640.0, 360.0)
    assert frame.to_seen(10, 20) == (10.0, 20.0)
    assert frame.box_from_original((0, 0, 1280, 720)) == (0, 0, 644, 364)
    thousandths = Frame("thousandths", original=Size(1280, 720), seen=Size(644, 364))
    assert thousandths.from_original(1280, 180) == (1000, 250)
    assert thousandths.box_to_original((0, 250, 500, 1000)) == (0.0, 180.0, 640.0, 720.0)
    assert thousandths.box_to_seen((0, 250, 500, 1000)) == (0.0, 91.0, 322.0, 364.0)
    assert (frame.limits, thousandths.limits) == (Size(644, 364), Size(1000, 1000))


def test_identity_changes_nothing():
    frame = Frame.identity()
    assert frame.is_identity
    for x, y in ((0.1, 1 / 3), (1e-7, 12345.678), (-5.5, 1e15)):
        assert frame.to_original(x, y) == (x, y)
        assert frame.to_seen(x, y) == (x, y)
    assert frame.from_original(2.6, 1e6) == (3, 1_000_000)


def test_only_equal_sizes_in_pixels_are_the_identity():
    size = Size(56, 84)
    assert Frame("pixels", size, Size(56, 84)).is_identity
    assert not Frame("thousandths", size, size).is_identity
    assert not Frame("pixels", size, Size(84, 84)).is_identity
    assert not Frame("pixels", size, Size(56, 56)).is_identity


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("original", SIZES, ids=str)
def test_round_trip_of_whole_coordinates(name, original):
    """What a model can write survives the trip to original pixels and back."""
    frame = frame_of(name, original)
    for x in range(0, frame.limits.width + 1, 7):
        y = min(x, frame.limits.height)
        assert frame.from_original(*frame.to_original(x, y)) == (x, y)


@pytest.mark.parametrize("name", FAMILIES)
@given(size=st.tuples(st.integers(30, 2500), st.integers(30, 2500)), share=st.tuples(*[st.floats(0, 1)] * 4))
@settings(max_examples=60, deadline=None)
def test_round_trip_of_boxes(name, size, share):
    """A box that a transcript writes is back within half a unit of the frame, and lies in the frame."""
    original = Size(*size)
    frame = frame_of(name, original)
    box = (
        share[0] * original.width,
        share[1] * original.height,
        share[2] * original.width,
        share[3] * original.height,
    )
    written = frame.box_from_original(box)
    units = (original.width / frame.limits.width, original.height / frame.limits.height) * 2
    for back, true, unit in zip(frame.box_to_original(written), box, units, strict=True):
        assert abs(back - true) <= unit / 2 + 1e-6
    assert all(0 <= v <= limit for v, limit in zip(written, (frame.limits.width, frame.limits.height) * 2, strict=True))


@given(st.tuples(*[st.integers(0, 500)] * 4))
def test_seen_pixels_are_original_pixels_resized(values):
    """Both ways out of the model's frame lead to the same spot of the picture."""
    for name in FAMILIES:
        frame = frame_of(name, Size(1333, 777))
        seen, original = frame.box_to_seen(values), frame.box_to_original(values)
        assert [v / s for v, s in zip(seen, (frame.seen.width, frame.seen.height) * 2, strict=True)] == pytest.approx(
            [v / s for v, s in zip(original, (1333, 777) * 2, strict=True)]
        )


def test_angles_follow_the_picture_not_the_frame():
    """In thousandths a ray's direction is distorted; in original pixels it is not."""
    frame = Frame("thousandths", Size(2000, 500), Size(1988, 504))
    ray = (frame.from_original(0, 0), frame.from_original(300, 300))
    true = ((0.0, 0.0), (300.0, 300.0))
    assert math.degrees(angle(ray, true) or 0) > 20
    assert angle((frame.to_original(*ray[0]), frame.to_original(*ray[1])), true) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "grid", "low", "high", "expected"),
    [
        ((640, 480), 28, 3136, 1_003_520, (644, 476)),
        ((112, 112), 28, 3136, 1_003_520, (112, 112)),
        ((10, 10), 28, 3136, 1_003_520, (56, 56)),
        ((640, 480), 32, 4096, 1_003_520, (640, 480)),
        ((4000, 3000), 28, 3136, 1_003_520, (1148, 840)),
        ((70, 42), 28, 784, 1_003_520, (56, 56)),  # 2.5 and 1.5 cells: halves go to the even number
    ],
)
def test_grid_by_hand(size, grid, low, high, expected):
    assert fit_to_grid(Size(*size), grid, low, high) == Size(*expected)


@given(
    st.integers(1, 6000),
    st.integers(1, 6000),
    st.sampled_from([28, 32]),
    st.integers(1, 64),
    st.integers(1, 4000),
)
@example(29, 5615, 28, 1, 200)  # the grid makes it longer than 200 times
@settings(max_examples=300, deadline=None)
def test_grid_is_qwens_own(width, height, grid, low_cells, more_cells):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    low, high = low_cells * grid * grid, (low_cells + more_cells) * grid * grid
    assume(max(width, height) / min(width, height) <= 200)
    theirs = smart_resize(height, width, grid, low, high)
    if max(theirs) > 200 * min(theirs):
        with pytest.raises(ValueError, match="sides differ"):
            fit_to_grid(Size(width, height), grid, low, high)
        return
    if not low <= theirs[0] * theirs[1] <= high:
        with pytest.raises(ValueError, match="outside min_pixels"):
            fit_to_grid(Size(width, height), grid, low, high)
        return
    fitted = fit_to_grid(Size(width, height), grid, low, high)
    assert (fitted.height, fitted.width) == theirs
    assert fitted.width % grid == fitted.height % grid == 0
    assert fit_to_grid(fitted, grid, low, high) == fitted  # a processor has nothing left to resize


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=re.escape("image of 4020x20: sides differ by more than 200 times")):
        fit_to_grid(Size(4020, 20), 28, *BOUNDS)
    with pytest.raises(ValueError, match=r"of 1000x10 would become 280x28 .* outside min_pixels 784 \.\. max_pixels"):
        fit_to_grid(Size(1000, 10), 28, 784, 7000)
    with pytest.raises(ValueError, match="size 0x5"):
        Size(0, 5)
