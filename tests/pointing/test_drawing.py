"""Drawing changes the pixels along the ray and no others; bytes are lossless; broken files are refused by name."""

import io
import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pointing.coordinates import Size
from pointing.drawing import ImageError, decode_png, digest, draw_ray, encode_png, line_width, open_image, resize


def picture(width=64, height=48, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 200, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def changed(before, after):
    """(x, y) of every pixel that differs."""
    rows, columns = np.nonzero((np.asarray(before) != np.asarray(after)).any(2))
    return np.stack([columns, rows], 1)


def test_the_line_is_red_and_where_it_should_be():
    before = picture()
    after = draw_ray(before, (10, 20), (50, 20))
    places = changed(before, after)
    assert set(map(tuple, places)) == {(x, y) for x in range(10, 51) for y in (20, 21)}
    assert (np.asarray(after)[places[:, 1], places[:, 0]] == (255, 0, 0)).all()
    assert after.size == before.size
    assert len(changed(before, picture())) == 0  # the image that was passed in is as it was


@given(*[st.tuples(st.floats(-100, 200), st.floats(-100, 200))] * 2)
@settings(max_examples=200, deadline=None)
def test_only_pixels_near_the_line_change(start, end):
    before = picture()
    try:
        after = draw_ray(before, start, end)
    except ValueError:
        # Refused: no stretch longer than a pixel is inside.
        steps = np.linspace(0, 1, 2001)[:, None]
        at = np.array(start) + steps * (np.array(end) - np.array(start))
        inside = ((at > 0) & (at < (64, 48))).all(1)
        assert inside.mean() * math.dist(start, end) < 1.5
        return
    places = changed(before, after).astype(float)
    assert len(places)
    direction = np.array(end) - np.array(start)
    off = np.abs((places[:, 0] - start[0]) * direction[1] - (places[:, 1] - start[1]) * direction[0])
    assert (off / np.hypot(*direction)).max() <= 3.5  # half of the width, and rounding of both ends


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ((-20, -20), (-5, -5)),
        ((5, 5), (5, 5)),
        ((5, 5), (5.4, 5.4)),
        ((math.inf, 0), (3, 3)),
        ((0, math.nan), (3, 3)),
        ((1e308, 1e308), (-1e308, 1e308)),
    ],
)
def test_nothing_to_draw_is_refused(start, end):
    with pytest.raises(ValueError, match=r"no part of the ray .* can be drawn on an image of 64x48"):
        draw_ray(picture(), start, end)


def test_a_ray_is_cut_at_the_border():
    whole, cut = draw_ray(picture(), (10, 24), (640, 24)), draw_ray(picture(), (10, 24), (64, 24))
    assert whole.tobytes() == cut.tobytes()
    edge = changed(picture(), draw_ray(picture(), (64, 5), (64, 40)))  # the border itself belongs to the image
    assert edge[:, 0].max() == 63
    assert len(edge) >= 35


def test_width_follows_the_size():
    assert [line_width(Image.new("RGB", size)) for size in ((112, 112), (640, 480), (1920, 1080))] == [2, 5, 11]
    thin, thick = (len(changed(picture(), draw_ray(picture(), (5, 5), (40, 5), width=w))) for w in (1, 5))
    assert (thin, thick) == (36, 5 * 36)


def test_png_is_lossless_and_named_by_content():
    image = picture()
    png = encode_png(image)
    assert decode_png(png).tobytes() == image.tobytes()
    assert digest(png) == digest(encode_png(picture())) != digest(encode_png(picture(seed=1)))
    assert len(digest(png)) == 32
    with pytest.raises(ImageError, match="image of 10 bytes: cannot be read"):
        decode_png(png[:10])


def test_resize():
    image = picture()
    assert resize(image, Size(64, 48)) is image
    small = resize(image, Size(28, 56))
    assert small.size == (28, 56)
    assert small.tobytes() == image.resize((28, 56), Image.Resampling.BICUBIC).tobytes()


def test_open_turns_an_image_upright(tmp_path):
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    opened = open_image(tmp_path / "turned.png")
    assert opened.size == (48, 64)
    assert opened.tobytes() == image.rotate(-90, expand=True).tobytes()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_open_gives_rgb(tmp_path, mode):
    Image.new(mode, (30, 40)).save(tmp_path / "image.tiff")
    assert open_image(tmp_path / "image.tiff").mode == "RGB"


def test_files_that_are_no_images_are_refused_by_name(tmp_path):
    buffer = io.BytesIO()
    picture(200, 200).save(buffer, "JPEG")
    broken = {
        "text.png": b"this is not an image",
        "empty.png": b"",
        "cut.jpg": buffer.getvalue()[: len(buffer.getvalue()) // 2],
        "cut.png": encode_png(picture())[:-40],
        "header.png": encode_png(picture())[:30],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=rf"{name}: cannot be read as an image"):
            open_image(tmp_path / name)
    with pytest.raises(ImageError, match=r"none\.png: cannot be read as an image .*FileNotFoundError"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="IsADirectoryError"):
        open_image(tmp_path)


def test_large_images_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (3000, 2000)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match=r"large\.png: 3000x2000 is more than 5999999 pixels"):
        open_image(tmp_path / "large.png", max_pixels=5_999_999)
    assert open_image(tmp_path / "large.png", max_pixels=6_000_000).size == (3000, 2000)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 100_000])
def test_a_bomb_is_refused(tmp_path, side):
    """A header that promises far more pixels than the file holds costs nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(ImageError, match=r"bomb\.png: .*(more than 64000000 pixels|exceeds limit)"):
        open_image(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_raise_nothing_else(data):
    """Whatever single byte is wrong, the outcome is an image or an ImageError."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    picture(40, 30).save(buffer, data.draw(st.sampled_from(["JPEG", "PNG"])), exif=exif)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        mode = decode_png(bytes(content)).mode
    except ImageError:
        return
    assert mode == "RGB"
