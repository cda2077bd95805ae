"""A folder of data files in which each row but the clean ones has one defect that is known by line and field."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PROMPT = "<image>What is it?"
TRUTH: dict[str, Any] = {
    "hand_bbox": [10, 30, 30, 46],
    "pointing_keypoints": [[20, 40], [28, 34]],
    "pointing_ray": {"start": [28, 34], "end": [60, 10]},
    "obj_bbox": [40, 6, 60, 26],
    "obj_name": "cup",
}
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@dataclass(frozen=True, slots=True)
class Defect:
    """A planted row, and what must be said of it: kind, field (a start of it), words of the reason, severity."""

    line: object
    kind: str
    field: str
    words: str
    severity: str = "error"


class Album:
    """Makes photographs that differ, one for each call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0

    def picture(self, size: tuple[int, int] = (64, 48)) -> Image.Image:
        self._made += 1
        pixels = np.random.default_rng(self._made).integers(0, 255, (size[1], size[0], 3), np.uint8)
        return Image.fromarray(pixels)

    def new(self, suffix: str = "png", size: tuple[int, int] = (64, 48), **saved: Any) -> str:
        image = self.picture(size)
        name = f"image-{self._made:03}.{suffix}"
        image.save(self._folder / name, **saved)
        return name


def row(album: Album, **changes: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "images": [album.new()], "ground_truth": TRUTH, **changes}


def without(fields: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != key}


def _of_rows(album: Album) -> list[Defect]:
    def truth(value: Any) -> dict[str, Any]:
        return row(album, ground_truth=value)

    return [
        Defect('{"prompt": ', "row", "row", "not JSON"),
        Defect(b'{"prompt": "\xff"}', "row", "row", "not JSON"),
        Defect("[" * 100_000, "row", "row", "not JSON"),
        Defect('["a list"]', "row", "row", "is a list"),
        Defect("7", "row", "row", "is a int"),
        Defect(without(row(album), "prompt"), "row", "prompt", "is missing"),
        Defect(without(row(album), "ground_truth"), "row", "ground_truth", "is missing"),
        Defect(without(row(album), "images"), "row", "images", "is missing"),
        Defect(row(album, prompt=""), "row", "prompt", "is no question"),
        Defect(row(album, prompt="<image> "), "row", "prompt", "is no question"),
        Defect(row(album, prompt=["What?"]), "row", "prompt", "is no question"),
        Defect(row(album, prompt="<image><image>What is it?"), "row", "prompt", "has 2 <image> placeholders for 1"),
        Defect(
            row(album, images=[album.new(), album.new()]), "row", "prompt", "has 1 <image> placeholders for 2 images"
        ),
        Defect(row(album, prompt="<image><video>What?"), "row", "prompt", "<video> placeholder"),
        Defect(row(album, videos=["v.mp4"]), "row", "videos", "videos are not supported"),
        Defect(row(album, images=None), "row", "images", "holds no image"),
        Defect(row(album, images=[]), "row", "images", "holds no image"),
        Defect(row(album, images=[5]), "row", "images[0]", "is no path"),
        Defect(row(album, images=["lost.png"]), "row", "images[0]", "no such file"),
        Defect(row(album, images=["../outside.png"]), "row", "images[0]", "lies outside"),
        Defect(row(album, images=["."]), "row", "images[0]", "no such file"),
        Defect(row(album, images=["a\0b.png"]), "row", "images[0]", "path"),
        Defect(truth("a cup"), "row", "ground_truth", "neither JSON nor"),
        Defect(truth("null"), "row", "ground_truth", "'null'"),
        Defect(truth([1, 2, 3, 4]), "row", "ground_truth", "is no ground truth"),
        Defect(truth({}), "row", "ground_truth", "has none of"),
        Defect(truth({**TRUTH, "bbox": [1, 2, 3, 4]}), "row", "ground_truth.bbox", "unknown key"),
        Defect(truth({**TRUTH, "hand_bbox": [1, 2, 3]}), "row", "ground_truth.hand_bbox", "required"),
        Defect(truth({**TRUTH, "hand_bbox": [1, 2, 3, 4, 5]}), "row", "ground_truth.hand_bbox", "at most 4"),
        Defect(truth({**TRUTH, "obj_bbox": [1, 2, "3", 4]}), "row", "ground_truth.obj_bbox[2]", "valid number"),
        Defect(truth({**TRUTH, "obj_bbox": [1, 2, True, 4]}), "row", "ground_truth.obj_bbox[2]", "valid number"),
        Defect(truth({**TRUTH, "obj_bbox": [1, 2, math.nan, 4]}), "row", "ground_truth", ""),
        Defect(truth({**TRUTH, "pointing_keypoints": [[1, 2]]}), "row", "ground_truth.pointing_keypoints", "required"),
        Defect(truth({**TRUTH, "pointing_ray": {"start": [1, 2]}}), "row", "ground_truth.pointing_ray.end", "required"),
        Defect(truth({**TRUTH, "obj_name": 7}), "row", "ground_truth.obj_name", "valid string"),
        Defect(truth({"stage": 1, "obj_bbox": [1, 2, 3, 4]}), "row", "ground_truth", "yet obj_bbox is given"),
    ]


def _of_places(album: Album) -> list[Defect]:
    def truth(**changes: Any) -> dict[str, Any]:
        return row(album, ground_truth={**TRUTH, **changes})

    ray = {"start": [28, 34], "end": [28, 34]}
    shares = {"hand_bbox": [0.1, 0.5, 0.4, 0.9], "obj_bbox": [0.5, 0.1, 0.9, 0.5]}
    key = "ground_truth."
    return [
        Defect(truth(hand_bbox=[30, 30, 10, 46]), "row", key + "hand_bbox", "without area"),
        Defect(truth(obj_bbox=[40, 6, 40, 26]), "row", key + "obj_bbox", "without area"),
        Defect(truth(pointing_ray=ray), "row", key + "pointing_ray", "no length"),
        Defect(truth(pointing_keypoints=[[28, 34], [28, 34]]), "row", key + "pointing_keypoints", "one point twice"),
        Defect(truth(hand_bbox=[-20, 30, 30, 46]), "row", key + "hand_bbox", "outside the image of 64x48"),
        Defect(truth(obj_bbox=[40, 6, 80, 26]), "row", key + "obj_bbox", "outside the image of 64x48"),
        Defect(truth(pointing_keypoints=[[20, 60], [28, 34]]), "row", key + "pointing_keypoints", "outside"),
        Defect(truth(pointing_ray={"start": [70, 34], "end": [60, 10]}), "row", key + "pointing_ray.start", "outside"),
        Defect(row(album, ground_truth=shares), "row", key + "obj_bbox", "shares of the image's sides"),
        Defect(
            truth(pointing_ray={"start": [28, 34], "end": [40, 44]}, pointing_keypoints=None),
            "ray",
            key + "pointing_ray",
            "degrees beside",
        ),
        Defect(
            truth(obj_bbox=[56, 14, 62, 20]), "ray", key + "pointing_ray", "passes 1.33 ", "warning"
        ),  # atan(24/32) - atan(20/28) = 36.87 - 35.54 degrees
        Defect(
            truth(pointing_keypoints=[[28, 34], [20, 40]]),
            "finger",
            key + "pointing_keypoints",
            "180 degrees",
            "warning",
        ),
        Defect(
            truth(pointing_keypoints=[[54, 20], [62, 14]]),
            "finger",
            key + "pointing_keypoints[1]",
            "far from",
            "warning",
        ),
        Defect(
            {**truth(), "ground_truth": {"hand_bbox": TRUTH["hand_bbox"], "obj_bbox": TRUTH["hand_bbox"]}},
            "box",
            key + "obj_bbox",
            "is the hand box",
            "warning",
        ),
        Defect(truth(obj_bbox=[0, 0, 64, 48]), "box", key + "obj_bbox", "is the whole image", "warning"),
        Defect(truth(obj_bbox=[40, 24.5, 60, 25.5]), "box", key + "obj_bbox", "thinner than 2 pixels", "warning"),
        Defect(truth(obj_name=" "), "name", key + "obj_name", "is empty", "warning"),
        Defect(truth(obj_name="<b>cup"), "name", key + "obj_name", "markup", "warning"),
    ]


def _of_images(album: Album, folder: Path) -> list[Defect]:
    def cut(name: str, keep: float) -> str:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])
        return name

    (folder / "text.png").write_text("no image")
    (folder / "empty.jpg").touch()
    flipped = folder / album.new()
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", XMP)
    tall = {**TRUTH, "pointing_keypoints": None, "pointing_ray": None, "hand_bbox": None, "obj_bbox": [10, 10, 30, 30]}
    wide = {"obj_bbox": [10, 0, 100, 3]}
    return [
        Defect(row(album, images=["text.png"]), "row", "images[0]", "cannot be read as an image"),
        Defect(row(album, images=["empty.jpg"]), "row", "images[0]", "cannot be read as an image"),
        Defect(row(album, images=[cut(album.new("jpg"), 0.6)]), "row", "images[0]", "truncated"),
        Defect(row(album, images=[cut(album.new("png"), 0.6)]), "row", "images[0]", "cannot be read"),
        Defect(row(album, images=[flipped.name]), "row", "images[0]", "cannot be read"),
        Defect(
            row(album, images=[album.new("jpg", exif=exif)], ground_truth=tall),
            "image",
            "images[0]",
            "orientation 6",
            "warning",
        ),
        Defect(
            row(album, images=[album.new("png", pnginfo=xmp)], ground_truth=tall),
            "image",
            "images[0]",
            "orientation 6",
            "warning",
        ),
        Defect(row(album, images=[album.new("png", (1000, 4))], ground_truth=wide), "image", "images[0]", "200 times"),
    ]


def _of_pairs(album: Album) -> list[Defect]:
    first = row(album, id="one")
    other = {**first, "ground_truth": "none"}
    return [
        Defect(first, "", "", ""),
        Defect(without(first, "id"), "duplicate", "prompt", "are those of", "warning"),
        Defect(without(other, "id"), "contradiction", "prompt", "the ground truth is another"),
        Defect(row(album, id="one"), "id", "id", "is the id of"),
    ]


def plant(folder: Path) -> dict[tuple[str, int], Defect]:
    """Writes train.jsonl and test.jsonl; every defect by its file and line. Clean rows stand between them."""
    album = Album(folder)
    Image.new("RGB", (64, 48)).save(folder.parent / "outside.png")
    defects = [*_of_rows(album), *_of_places(album), *_of_images(album, folder), *_of_pairs(album)]
    lines: list[bytes] = []
    planted: dict[tuple[str, int], Defect] = {}
    train, test = folder / "train.jsonl", folder / "test.jsonl"
    for defect in defects:
        lines += [_line(row(album)), _line(defect.line)]
        if defect.kind:
            planted[str(train), len(lines)] = defect
    shared = row(album)
    lines += [_line(shared), _line(row(album, id="scene-7"))]
    train.write_bytes(b"\n".join(lines) + b"\n")
    leaks = [
        Defect({**shared, "prompt": "Which one?"}, "leak", "images[0]", f"at {train}:{len(lines) - 1}"),
        Defect(row(album, id="scene-7"), "leak", "id", f"at {train}:{len(lines)}"),
    ]
    test.write_bytes(b"\n".join(_line(leak.line) for leak in leaks))
    return planted | {(str(test), number): leak for number, leak in enumerate(leaks, start=1)}


def _line(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode()
