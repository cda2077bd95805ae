"""Statistics of data files against numbers worked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointing.curation import stats
from pointing.curation.stats import QUANTILES, SECTORS, Frequency, sector_of, spread_of, statistics
from pointing.dataset import DatasetOptions
from tests.pointing.curation.defects import TRUTH, Album, row


def of(folder: Path, *rows: object) -> stats.DataStatistics:
    (folder / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return statistics(DatasetOptions(files=(str(folder / "a.jsonl"),)))


def test_numbers_by_hand(tmp_path: Path) -> None:
    album = Album(tmp_path)
    second = {"obj_bbox": [0, 0, 100, 50], "obj_name": "cup", "hand_bbox": [0, 0, 10, 10]}
    found = of(
        tmp_path,
        row(album),
        row(album, images=[album.new(size=(200, 100))], ground_truth=second, prompt="Which one?"),
        row(album, ground_truth="none"),
        {"prompt": 7},
    )
    assert (found.rows, found.positives, found.negatives, found.refused, found.images) == (4, 2, 1, 1, 3)
    assert found.sizes == (Frequency("64x48", 2), Frequency("200x100", 1))
    assert [part.count for part in found.parts] == [2, 1, 1, 2, 2]
    assert found.target_area is not None
    assert found.target_area.mean == pytest.approx((400 / 3072 + 0.25) / 2)
    assert found.hand_area is not None
    assert found.hand_area.least == pytest.approx(100 / 20_000)
    assert found.ray_length is not None
    assert found.ray_length.mean == pytest.approx(40 / 80)  # (28, 34) to (60, 10) in an image of 64 x 48
    assert {f.value for f in found.ray_sectors if f.count} == {"upper right"}
    (cups,) = found.names
    assert (cups.name, cups.count) == ("cup", 2)
    assert cups.mean_area_share == pytest.approx(found.target_area.mean)
    assert found.questions == (Frequency("What is it?", 2), Frequency("Which one?", 1))


def test_nothing_to_measure_is_no_number(tmp_path: Path) -> None:
    found = of(tmp_path, row(Album(tmp_path), ground_truth="none"))
    assert (found.target_area, found.hand_area, found.ray_length, found.names) == (None, None, None, ())


def test_sectors_are_as_one_sees_them() -> None:
    for number, name in enumerate(SECTORS):
        turn = number * math.pi / 4
        assert sector_of((5, 5), (5 + math.cos(turn), 5 - math.sin(turn))) == name


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_a_spread_is_that_of_all_values_while_all_are_kept(values: list[float]) -> None:
    spread = spread_of(values)
    assert (spread.count, spread.least, spread.most) == (len(values), min(values), max(values))
    assert spread.mean == pytest.approx(fmean(values), abs=1e-6)
    assert list(spread.quantiles) == sorted(spread.quantiles)
    if len(values) % 2:
        assert spread.quantiles[QUANTILES.index(0.5)] == median(values)


def test_more_values_than_are_kept_give_nearly_the_same_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "SAMPLED", 2_000)
    spread = spread_of(float(value) for value in range(40_000))
    assert (spread.count, spread.mean, spread.least, spread.most) == (40_000, 19_999.5, 0, 39_999)
    assert len(spread.sample) == 2_000
    for share, value in zip(QUANTILES, spread.quantiles, strict=True):
        # A sample of n has its q-quantile within 4 standard errors sqrt(q (1 - q) / n) of the rank.
        assert value / 40_000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 2_000))


def test_questions_beyond_a_number_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "DISTINCT", 2)
    album = Album(tmp_path)
    found = of(tmp_path, *(row(album, prompt=f"What is {n}?", ground_truth=TRUTH) for n in (1, 2, 3, 4, 1)))
    assert found.questions == (Frequency("What is 1?", 2), Frequency("", 2), Frequency("What is 2?", 1))
