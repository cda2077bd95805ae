"""Splitting: nothing is on two sides, nothing is lost, and the same asked twice is the same answered."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from files.owned import ExistsError
from pointing.curation.check import CheckOptions, check
from pointing.curation.groups import Groups
from pointing.curation.split import SplitError, SplitOptions, split
from pointing.data_rows import DatasetError, data_rows
from pointing.dataset import DatasetOptions
from tests.pointing.curation.defects import TRUTH, Album, row

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
rows_of_keys = st.lists(
    st.lists(st.integers(0, 30).map(lambda n: bytes([n])), min_size=1, max_size=3), min_size=1, max_size=40
)


def sides_of(rows: list[list[bytes]], seed: int) -> list[str]:
    with Groups() as groups:
        for keys in rows:
            groups.add(keys)
        counts = groups.deal(SHARES, seed)
        sides = list(groups.sides())
    assert {count.name: count.rows for count in counts} == {name: sides.count(name) for name in SHARES}
    return sides


def components(rows: list[list[bytes]]) -> list[set[int]]:
    """Rows that are joined by shared keys: the slow way."""
    parts: list[tuple[set[bytes], set[int]]] = []
    for number, keys in enumerate(rows):
        joined = [part for part in parts if part[0] & set(keys)]
        parts = [part for part in parts if part not in joined]
        parts.append((set(keys).union(*(p[0] for p in joined)), {number}.union(*(p[1] for p in joined))))
    return [numbers for _, numbers in parts]


@given(rows_of_keys, st.integers(0, 5))
@example([[b"a"], [b"c"], [b"b"], [b"a", b"b"], [b"b", b"c"]], 0)  # joined late
def test_what_is_joined_stays_together_and_each_side_has_its_share(rows: list[list[bytes]], seed: int) -> None:
    sides = sides_of(rows, seed)
    assert len(sides) == len(rows)
    groups = components(rows)
    for group in groups:
        assert len({sides[number] for number in group}) == 1
    largest = max(map(len, groups))
    for name, share in SHARES.items():
        assert sides.count(name) <= share * len(rows) + largest
    assert sides_of(rows, seed) == sides
    assert sides_of(rows[::-1], seed) == sides[::-1]  # whatever the order of the rows


def test_another_seed_is_another_split() -> None:
    rows = [[bytes([number])] for number in range(100)]
    assert sides_of(rows, 0) != sides_of(rows, 1)
    assert [sides_of(rows, 0).count(name) for name in SHARES] == [60, 20, 20]


def write(folder: Path, name: str = "all.jsonl", images: int = 12) -> DatasetOptions:
    """Three questions about each image; four scenes."""
    album = Album(folder)
    names = [album.new() for _ in range(images)]
    rows = [
        {"prompt": f"What is {n}?", "images": [names[n % images]], "ground_truth": json.dumps(TRUTH), "scene": n % 4}
        for n in range(3 * images)
    ]
    file = folder / name
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return DatasetOptions(files=(str(file),))


@pytest.mark.parametrize("name", ["all.jsonl", "all.parquet"])
@pytest.mark.parametrize("by", ["image", "scene"])
def test_the_files_hold_all_rows_as_they_were_and_share_nothing(tmp_path: Path, name: str, by: str) -> None:
    data = write(tmp_path, name)
    counts = split(data, SplitOptions({"train": 0.5, "test": 0.5}, by), tmp_path / "out")
    assert [count.rows for count in counts] == [18, 18]
    original = [dict(each.fields) for each in data_rows(tmp_path / name)]
    written = {n: tmp_path / "out" / f"{n}{Path(name).suffix}" for n in ("train", "test")}
    sides = {n: [dict(each.fields) for each in data_rows(file)] for n, file in written.items()}
    for rows in sides.values():
        assert rows == [each for each in original if each in rows]  # in their order
    assert sorted(map(str, sides["train"] + sides["test"])) == sorted(map(str, original))
    key = "images" if by == "image" else by
    assert not {str(each[key]) for each in sides["train"]} & {str(each[key]) for each in sides["test"]}
    files = tuple(map(str, written.values()))
    assert list(check(CheckOptions(DatasetOptions(files=files, image_dir=str(tmp_path))))) == []


def test_a_copy_of_an_image_under_another_name_is_the_same_image(tmp_path: Path) -> None:
    album = Album(tmp_path)
    rows = [row(album) for _ in range(30)]
    for number, each in enumerate(rows[:]):
        (tmp_path / f"copy-{number}.png").write_bytes((tmp_path / each["images"][0]).read_bytes())
        rows.append({**each, "images": [f"copy-{number}.png"], "prompt": "Which?"})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    split(DatasetOptions(files=(str(tmp_path / "a.jsonl"),)), SplitOptions(SHARES), tmp_path / "o")
    files = tuple(str(tmp_path / "o" / f"{name}.jsonl") for name in SHARES)
    assert list(check(CheckOptions(DatasetOptions(files=files, image_dir=str(tmp_path))))) == []


def test_the_same_split_is_left_alone_and_another_needs_overwrite(tmp_path: Path) -> None:
    data, out = write(tmp_path), tmp_path / "out"
    split(data, SplitOptions(SHARES), out)
    before = (out / "train.jsonl").stat().st_mtime_ns, (out / "train.jsonl").read_bytes()
    assert split(data, SplitOptions(SHARES), out)
    assert ((out / "train.jsonl").stat().st_mtime_ns, (out / "train.jsonl").read_bytes()) == before
    with pytest.raises(ExistsError, match="holds what pointvg data split wrote; add --overwrite"):
        split(data, SplitOptions(SHARES, seed=1), out)
    split(data, SplitOptions(SHARES, seed=1), out, overwrite=True)
    assert (out / "train.jsonl").read_bytes() != before[1]


def test_rows_that_cannot_be_used_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    album = Album(tmp_path)
    rows = [row(album), row(album, images=["lost.png"]), row(album)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    data = DatasetOptions(files=(str(tmp_path / "a.jsonl"),))
    with pytest.raises(DatasetError, match=r"1 rows cannot be used; .*\n  .*a\.jsonl:2: images\[0\]='lost\.png'"):
        split(data, SplitOptions(SHARES), tmp_path / "o")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows[::2]))
    with pytest.raises(SplitError, match="2 groups that must stay together"):
        split(data, SplitOptions(SHARES), tmp_path / "o")
    assert not (tmp_path / "o").exists()
