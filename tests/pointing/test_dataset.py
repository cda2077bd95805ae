"""Reading task files: formats, keys, placeholders, paths, image checks, and what a bad row says."""

from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pointing.coordinates import Size
from pointing.dataset import Cursor, DatasetError, DatasetOptions, Sampler, read
from pointing.drawing import ImageError, open_image
from pointing.image_check import image_size
from schemas.task import NEGATIVE, Task

TRUTH = {"hand_bbox": [10, 10, 20, 20], "obj_bbox": [30, 30, 50, 40]}


def row(**changes: Any) -> dict[str, Any]:
    return {"prompt": "<image>What is it?", "ground_truth": TRUTH, "images": ["a.png"], **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "a.png")
    return tmp_path


def write(folder: Path, *rows: object, name: str = "train.jsonl") -> DatasetOptions:
    file = folder / name
    if file.suffix == ".jsonl":
        file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    elif file.suffix == ".json":
        file.write_text(json.dumps(list(rows)))
    else:
        pq.write_table(pa.Table.from_pylist(list(rows)), file)  # type: ignore[arg-type]
    return DatasetOptions(files=(str(file),))


def rejection(folder: Path, *rows: object, **options: Any) -> tuple[str, str, str]:
    """Source, field and reason of the one rejected row beside a good one."""
    given = write(folder, row(), *rows)
    result = read(DatasetOptions(files=given.files, on_error="skip", **options))
    assert len(result.tasks) == 1
    (only,) = result.rejected
    return only.source, only.field, only.reason


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.parquet"])
def test_the_three_formats_give_the_same_tasks(folder: Path, name: str) -> None:
    ray = {"pointing_ray": {"start": [1, 2], "end": [3, 4]}}
    rows = [row(), row(ground_truth=json.dumps({**TRUTH, **ray})), row(ground_truth="none")]
    if name == "train.parquet":  # a column has one type there
        rows[0]["ground_truth"] = json.dumps(TRUTH)
    tasks = read(write(folder, *rows, name=name)).tasks
    assert [task.task_id for task in tasks] == ["train-0", "train-1", "train-2"]
    assert [task.source for task in tasks] == [f"{folder / name}:{line}" for line in (1, 2, 3)]
    assert tasks[0].ground_truth.obj_bbox == (30.0, 30.0, 50.0, 40.0)
    assert tasks[1].ground_truth.pointing_ray is not None
    assert tasks[2].ground_truth is NEGATIVE
    assert tasks[0].images == (str(folder / "a.png"),)


def test_parquet_structs_read_like_objects(folder: Path) -> None:
    rows = [row(), row(ground_truth={"stage": 1, "hand_bbox": None, "obj_bbox": None})]
    tasks = read(write(folder, *rows, name="train.parquet")).tasks
    assert tasks[0].ground_truth.hand_bbox == (10.0, 10.0, 20.0, 20.0)
    assert tasks[1].ground_truth is NEGATIVE


def test_a_folder_means_its_files_and_ids_stay_apart(folder: Path) -> None:
    for name in ("x", "y"):
        (folder / name).mkdir()
        write(folder / name, row(images=["../a.png"]), row(images=["../a.png"]), name="train.jsonl")
    options = DatasetOptions(files=(str(folder / "x"), str(folder / "y")), image_dir=str(folder))
    write(folder / "x", row(), row())
    write(folder / "y", row(), row())
    tasks = read(options).tasks
    assert [task.task_id for task in tasks] == ["0.train-0", "0.train-1", "1.train-0", "1.train-1"]


def test_keys_are_configurable_and_a_missing_one_is_named(folder: Path) -> None:
    renamed = {"question": "What?", "answer": TRUTH, "picture": "a.png", "clips": None, "other": 1}
    options = write(folder, renamed)
    keys = {"prompt_key": "question", "ground_truth_key": "answer", "images_key": "picture", "videos_key": "clips"}
    (task,) = read(DatasetOptions(files=options.files, **keys)).tasks  # type: ignore[arg-type]
    assert task.prompt == "<image>What?"
    write(folder, renamed | {"clips": ["v.mp4"]})
    with pytest.raises(
        DatasetError, match=r"train\.jsonl:1: clips=\['v\.mp4'\]: videos are not supported; give frames"
    ):
        read(DatasetOptions(files=options.files, **keys))  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=r"train\.jsonl:1: prompt: is missing; the row has question, answer"):
        read(options)


def test_bad_rows_are_listed_and_counted(folder: Path) -> None:
    options = write(folder, *[row(images=["lost.png"])] * 12, row())
    with pytest.raises(DatasetError) as caught:
        read(options)
    message = str(caught.value)
    assert message.startswith('12 rows cannot be used; correct them, or set on_error to "skip":')
    assert message.count("no such file") == 10
    assert "train.jsonl:10: images[0]" in message
    assert message.endswith("and 2 more")


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        ("{broken", "row", "not JSON"),
        ("[1, 2]", "row", "is a list"),
        ("[" * 100_000, "row", "not JSON"),
        (row(prompt=5), "prompt", "is no question"),
        (row(prompt=" <image> "), "prompt", "is no question"),
        (row(prompt="<image><image>What?"), "prompt", "has 2 <image> placeholders for 1 images"),
        (row(images=["a.png", "a.png"]), "prompt", "has 1 <image> placeholders for 2 images"),
        (row(images=[]), "images", "holds no image"),
        (row(images=None), "images", "holds no image"),
        (row(images=[7]), "images[0]", "is no path"),
        (row(images=[{"bytes": None}]), "images[0]", "is no path"),
        (row(images=["a\0.png"]), "images[0]", "not a usable path"),
        (row(images=["x" * 5000]), "images[0]", "not a usable path"),
        (row(images=["no.png"]), "images[0]", "no such file"),
        (row(images=["."]), "images[0]", "no such file"),
        (row(videos=["a.mp4"]), "videos", "videos are not supported"),
        (row(prompt="<image><video>What?"), "prompt", "has a <video> placeholder"),
        (row(ground_truth={"hand_bbox": [1, 2, 3]}), "ground_truth.hand_bbox[3]", "required"),
        (row(ground_truth={"obj_bbox": [1, 2, 3, float("nan")]}), "ground_truth.obj_bbox[3]", "finite"),
        (row(ground_truth={"obj_bbox": [0, 0, 128, 96]}), "ground_truth.obj_bbox", "lies outside the image of 64x48"),
        (row(ground_truth={"obj_bbox": [0.1, 0.2, 0.3, 0.4]}), "ground_truth.obj_bbox", "shares of the image's sides"),
        (row(ground_truth={"hand_bbox": [9, 9, 9, 20]}), "ground_truth.hand_bbox", "without area"),
        (row(ground_truth={"obj_bbox": [30, 20, 10, 40]}), "ground_truth.obj_bbox", "without area"),
        (
            row(ground_truth={"pointing_ray": {"start": [5, 5], "end": [5, 5]}}),
            "ground_truth.pointing_ray",
            "has no length",
        ),
        (row(ground_truth={"pointing_keypoints": [[5, 5], [5, 5]]}), "ground_truth.pointing_keypoints", "point twice"),
    ],
)
def test_a_bad_row_names_line_field_and_reason(folder: Path, bad: object, field: str, reason: str) -> None:
    source, found_field, found_reason = rejection(folder, bad)
    assert source == f"{folder / 'train.jsonl'}:2"
    assert found_field == field
    assert reason in found_reason


def test_bytes_in_parquet_and_in_lines_that_are_not_utf8(folder: Path) -> None:
    picture = (folder / "a.png").read_bytes()
    rows = [row(images=[{"bytes": picture, "path": "gone.png"}]), row(images=[{"bytes": None, "path": "a.png"}])]
    options = write(folder, *rows, name="t.parquet")
    with pytest.raises(DatasetError, match=r"t\.parquet:1: images\[0\]: holds the image itself.*set data\.unpack_dir"):
        read(options)
    for _ in range(2):  # what is there is used again
        inside, beside = read(replace(options, unpack_dir=str(folder / "unpacked"))).tasks
        (file,) = (folder / "unpacked").iterdir()
        assert inside.images == (str(file.resolve()),)
        assert file.read_bytes() == picture
        assert beside.images == (str(folder / "a.png"),)
    write(folder, row(images=[b"not an image"]), name="t.parquet")
    with pytest.raises(DatasetError, match=r"t\.parquet:1: images\[0\]: .*cannot be read as an image"):
        read(replace(options, unpack_dir=str(folder / "unpacked")))
    (folder / "l.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(row()).encode() + b'\n\n{"prompt": "\xff"}\n')
    result = read(DatasetOptions(files=(str(folder / "l.jsonl"),), on_error="skip"))
    assert (len(result.tasks), result.rejected[0].source) == (1, f"{folder / 'l.jsonl'}:3")  # blank lines count


def test_placeholders_are_put_before_a_prompt_without_any(folder: Path) -> None:
    (task,) = read(write(folder, row(prompt="Which?", images=["a.png", "a.png"]))).tasks
    assert task.prompt == "<image><image>Which?"
    (task,) = read(write(folder, row(prompt="Is <image> it?"))).tasks
    assert task.prompt == "Is <image> it?"


def test_paths_stay_in_the_image_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data", tmp_path / "secret.png"
    (inside / "deep").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(outside)
    Image.new("RGB", (64, 48)).save(inside / "a.png")
    (inside / "link.png").symlink_to(outside)
    (inside / "fine.png").symlink_to(inside / "a.png")
    (tmp_path / "data-2").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "data-2" / "b.png")  # shares a prefix with the folder, and is not in it
    for name in ("../secret.png", str(outside), "link.png", "deep/../../secret.png", "../data-2/b.png"):
        _, field, reason = rejection(inside, row(images=[name]))
        assert (field, "lies outside image_dir" in reason) == ("images[0]", True), name
    tasks = read(write(inside, *(row(images=[n]) for n in ("deep/../a.png", "fine.png", str(inside / "a.png"))))).tasks
    assert {task.images for task in tasks} == {(str(inside / "a.png"),)}
    with pytest.raises(DatasetError, match=r"image_dir .*nowhere: no such folder"):
        read(DatasetOptions(files=(str(inside / "train.jsonl"),), image_dir=str(tmp_path / "nowhere")))


def encoded(kind: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 40).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A small PNG that claims 60000 x 60000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as an image"),
        (b"not an image", "cannot be read as an image"),
        (encoded("PNG")[:-700], "cannot be read as an image"),
        (encoded("JPEG")[:-700], "cannot be read as an image"),
        (encoded("WEBP")[:-700], "cannot be read as an image"),
        (encoded("BMP")[:-700], "cannot be read as an image"),
        (bomb(), "3600000000 pixels"),
        (encoded("PNG", (300, 200)), "300x200 is more than 50000 pixels"),
    ],
    ids=["empty", "text", "cut-png", "cut-jpeg", "cut-webp", "cut-bmp", "bomb", "large"],
)
def test_files_that_are_no_usable_images(folder: Path, content: bytes, reason: str) -> None:
    (folder / "bad.png").write_bytes(content)
    _, field, found = rejection(folder, row(images=["bad.png"]), max_image_pixels=50_000)
    assert field == "images[0]"
    assert str(folder / "bad.png") in found
    assert reason in found
    unchecked = DatasetOptions(files=(str(folder / "train.jsonl"),), check_images=False)
    assert len(read(unchecked).tasks) == 2


def test_sizes_are_those_of_the_image_turned_upright(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        (folder / "x").write_bytes(encoded(kind, exif=exif))
        assert image_size(folder / "x") == Size(48, 64)
        (folder / "x").write_bytes(encoded(kind))
        assert image_size(folder / "x") == Size(64, 48)


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def test_an_orientation_in_xmp_counts_as_it_does_when_the_image_is_drawn(folder: Path) -> None:
    note = PngInfo()
    note.add_itxt("XML:com.adobe.xmp", XMP)
    for kind, options in (("PNG", {"pnginfo": note}), ("JPEG", {"xmp": XMP.encode()})):
        (folder / "x").write_bytes(encoded(kind, **options))
        assert image_size(folder / "x") == Size(*open_image(folder / "x").size) == Size(48, 64), kind
    plain = PngInfo()
    plain.add_text("Software", "XML:com.adobe.xmp")
    (folder / "x").write_bytes(encoded("PNG", pnginfo=plain))
    assert image_size(folder / "x") == Size(*open_image(folder / "x").size) == Size(64, 48)


def test_a_large_image_is_refused_before_its_orientation_is_looked_for(folder: Path) -> None:
    note = PngInfo()
    note.add_itxt("XML:com.adobe.xmp", XMP)
    (folder / "x.png").write_bytes(encoded("PNG", (300, 200), pnginfo=note)[:-700])  # decoding it would fail
    with pytest.raises(ImageError, match="300x200 is more than 50000 pixels"):
        image_size(folder / "x.png", 50_000)


def test_more_images_than_allowed_are_a_bad_row(folder: Path) -> None:
    given = row(prompt="Which?", images=["a.png", "a.png"])
    options = write(folder, given)
    assert len(read(replace(options, max_images=2)).tasks[0].images) == 2
    with pytest.raises(DatasetError, match=r"images: holds 2 images, more than data\.max_images=1; raise it"):
        read(replace(options, max_images=1))


def test_every_image_file_is_looked_into_once_where_that_is_asked(folder: Path) -> None:
    asked: list[Path] = []

    def damage(file: Path) -> str:
        asked.append(file)
        return "has a hole" if file.name == "b.png" else ""

    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    options = replace(write(folder, row(), row(images=["b.png"]), row()), damage=damage, on_error="skip")
    (bad,) = read(options).rejected
    assert (bad.line, bad.field) == (2, "images[0]")
    assert "has a hole" in bad.reason
    assert [file.name for file in asked] == ["a.png", "b.png"]


def test_a_jpeg_with_padding_after_its_end_is_whole(folder: Path) -> None:
    (folder / "x.jpg").write_bytes(encoded("JPEG") + bytes(5000))
    assert image_size(folder / "x.jpg") == Size(64, 48)


def test_overlong_prompts_are_counted_and_left_out(folder: Path) -> None:
    given = write(folder, row(), row(prompt="<image>" + "word " * 50), row())
    options = DatasetOptions(files=given.files, max_prompt_length=20)

    def words(task: Task) -> int:
        return len(task.prompt.split())

    result = read(options, words)
    assert [task.task_id for task in result.tasks] == ["train-0", "train-2"]
    assert result.overlong == 1
    with pytest.raises(ValueError, match="go together"):
        read(options)
    with pytest.raises(DatasetError, match=r"no usable task \(0 rejected, 3 prompts too long"):
        read(DatasetOptions(files=given.files, max_prompt_length=0), words)


def test_a_prompt_that_cannot_be_counted_is_a_bad_row(folder: Path) -> None:
    given = write(folder, row(), row(prompt="<image>strip"))

    def refuses(task: Task) -> int:
        if "strip" in task.prompt:
            raise ValueError("sides differ by more than 200 times")
        return 1

    with pytest.raises(DatasetError, match=r"train\.jsonl:2: prompt: sides differ"):
        read(DatasetOptions(files=given.files, max_prompt_length=20), refuses)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "not one of .jsonl, .json, .parquet"),
        ("a.json", b'{"prompt": 1}', "holds a dict; expected a list"),
        ("a.json", b'{"a": 1}\n{"a": 2}', "not JSON"),
        ("a.parquet", b"PAR1", "cannot be read as Parquet after row 0"),
        ("a.jsonl", b"\n", "no usable task"),
    ],
)
def test_unusable_files_are_errors_even_when_rows_may_be_skipped(
    folder: Path, name: str, content: bytes, message: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read(DatasetOptions(files=(str(folder / name),), on_error="skip"))


def test_missing_files_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"lost\.jsonl: no such file or folder"):
        read(DatasetOptions(files=(str(tmp_path / "lost.jsonl"),)))
    with pytest.raises(DatasetError, match="a folder without"):
        read(DatasetOptions(files=(str(tmp_path),)))
    with pytest.raises(DatasetError, match="no task files"):
        read(DatasetOptions(files=()))


def test_the_sampler_is_found_beside_the_reader() -> None:
    assert Sampler(2, 0, shuffle=False).take(Cursor(0, 0), 1) == ((0,), Cursor(0, 1))
