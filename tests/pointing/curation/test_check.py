"""Checking data files: every planted defect is found where it stands, and nothing is said of clean data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pointing.curation.check import CheckOptions, check
from pointing.curation.finding import Finding
from pointing.dataset import DatasetOptions
from pointing.scenes import FAR, write_scenes
from tests.pointing.curation.defects import TRUTH, Album, plant, row

ROOT = Path(__file__).resolve().parents[3]
DATA = os.environ.get("POINTVG_TEST_DATA")


def found_in(*files: Path | str, **options: Any) -> list[Finding]:
    return list(check(CheckOptions(DatasetOptions(files=tuple(map(str, files)), **options))))


def test_every_planted_defect_is_found_with_its_file_and_line(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    planted = plant(folder)
    assert len(planted) >= 40
    assert len({(d.kind, d.field, d.words, str(d.line)) for d in planted.values()}) == len(planted)
    said: dict[tuple[str, int | None], list[Finding]] = defaultdict(list)
    for finding in found_in(folder / "train.jsonl", folder / "test.jsonl"):
        said[finding.problem.file, finding.problem.line].append(finding)
    assert said.keys() == planted.keys()  # none is missed, and clean rows are left in peace
    for place, defect in planted.items():
        first = said[place][0]
        shown = f"{place[1]}: {[str(each) for each in said[place]]} for {defect}"
        assert (first.kind, first.problem.severity) == (defect.kind, defect.severity), shown
        assert first.problem.field.startswith(defect.field), shown
        assert defect.words in first.problem.reason, shown
        assert first.problem.remedy, shown
        assert len(said[place]) == 1, shown


def test_all_that_is_wrong_with_a_row_is_said_at_once(tmp_path: Path) -> None:
    bad = {
        "prompt": "",
        "images": ["lost.png", 7],
        "ground_truth": {"hand_bbox": [1, 2, "3"], "obj_bbox": None, "size": 1},
        "videos": ["v"],
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(bad))
    fields = [finding.problem.field for finding in found_in(tmp_path / "a.jsonl")]
    assert fields == [
        "videos",
        "images[0]",
        "images[1]",
        "prompt",
        "ground_truth.hand_bbox[2]",
        "ground_truth.hand_bbox[3]",
        "ground_truth.size",
    ]


@pytest.mark.parametrize("far", [False, True])
def test_nothing_is_said_of_scenes(tmp_path: Path, far: bool) -> None:
    scenes = write_scenes(
        tmp_path / "s", train=150, validation=20, test=20, seed=3, **({"options": FAR} if far else {})
    )
    assert found_in(scenes) == []


@pytest.mark.skipif(DATA is None, reason="POINTVG_TEST_DATA is not set: no folder of real photographs to check")
def test_nothing_is_said_of_real_photographs(tmp_path: Path) -> None:
    photos = Path(str(DATA)) / "real_photos"
    known = ("hand_bbox", "pointing_keypoints", "pointing_ray", "obj_bbox", "obj_name")
    rows = 0
    for name in ("manifest.json", "ti1k_train.json"):
        items = json.loads((photos / name).read_text(encoding="utf-8"))["items"]
        with (tmp_path / f"{name}l").open("w", encoding="utf-8") as stream:
            for item in items:
                truth = {key: item["annotations"][key] for key in known if key in item["annotations"]}
                if truth:
                    row = {"prompt": "What is pointed at?", "images": [item["path"]], "ground_truth": truth}
                    stream.write(json.dumps(row) + "\n")
                    rows += 1
    assert rows > 500
    assert [str(finding) for finding in found_in(tmp_path, image_dir=str(photos))] == []


def test_a_column_may_say_the_split(tmp_path: Path) -> None:
    album = Album(tmp_path)
    shared = row(album)
    rows = [{**shared, "split": "train"}, {**shared, "prompt": "Which?", "split": "train"}, {**shared, "split": "test"}]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (only,) = found_in(tmp_path / "all.jsonl")
    assert (only.kind, only.problem.line) == ("leak", 3)
    assert found_in(tmp_path / "all.jsonl")[0].problem.reason.endswith("all.jsonl:1")


def test_numbers_as_ids_may_start_again_in_every_file(tmp_path: Path) -> None:
    album = Album(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row(album, id=1)))
    assert found_in(tmp_path) == []


def test_what_cannot_be_read_at_all_does_not_hide_the_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.parquet").write_text("no table")
    (tmp_path / "c.jsonl").write_text("7\n")
    (tmp_path / "d.txt").touch()
    names = [str(tmp_path / name) for name in ("lost.jsonl", "a.json", "b.parquet", "d.txt", "c.jsonl")]
    found = found_in(*names)
    assert [finding.problem.file for finding in found] == names
    assert [finding.kind for finding in found] == ["file"] * 4 + ["row"]
    assert [finding.problem.line for finding in found] == [None] * 4 + [1]
    assert found[0].problem.reason == "no such file or folder"


def test_images_that_parquet_files_hold_are_looked_at(tmp_path: Path) -> None:
    album = Album(tmp_path)
    whole = (tmp_path / album.new()).read_bytes()
    truth = json.dumps(TRUTH)
    rows = [
        {"prompt": "What?", "images": [{"bytes": content, "path": None}], "ground_truth": truth}
        for content in (whole, whole[:200], whole)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = found_in(tmp_path / "a.parquet", unpack_dir=str(tmp_path / "unpacked"))
    assert [(f.kind, f.problem.line) for f in found] == [("row", 2), ("duplicate", 3)]


MEASURE = """
import resource, sys
from pointing.curation.check import CheckOptions, check
from pointing.dataset import DatasetOptions
rows = 0
def one():
    global rows
    rows += 1
found = sum(1 for _ in check(CheckOptions(DatasetOptions(files=(sys.argv[1],))), one))
print(rows, found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measured(file: Path) -> tuple[int, int, int]:
    """Rows, findings and the most KiB of memory of a check in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    rows, found, most = map(int, done.stdout.split())
    return rows, found, most


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_no_more_memory_than_a_thousand(tmp_path: Path) -> None:
    """Each with an image of its own; the last repeats the first, a hundred thousand rows above."""
    (tmp_path / "i").mkdir()
    for name, count in (("small", 1_000), ("large", 100_000)):
        with (tmp_path / f"{name}.jsonl").open("w") as stream:
            for number in range(count):
                image = f"i/{number}.bmp"
                if not (tmp_path / image).exists():
                    colour = (number % 256, number // 256 % 256, number // 65536)
                    Image.new("RGB", (64, 48), colour).save(tmp_path / image)
                stream.write(json.dumps({"prompt": "What?", "images": [image], "ground_truth": TRUTH}) + "\n")
            stream.write(json.dumps({"prompt": "What?", "images": ["i/0.bmp"], "ground_truth": TRUTH}) + "\n")
    small, large = measured(tmp_path / "small.jsonl"), measured(tmp_path / "large.jsonl")
    print(small, large)
    assert small[:2] == (1_001, 1)
    assert large[:2] == (100_001, 1)
    assert large[2] - small[2] < 100 * 1024  # KiB: what is remembered of 20,000 images, and SQLite's pages
