"""Rows to tensors: padding, packing, images once, and the table left as it was."""

import numpy as np
import pytest
import torch

from policy.learning.scorer import IDLE
from policy.network.collate import Collator, PixelCache, Row, ragged, rows_of
from policy.network.vision import ImageStats, read_image_stats
from policy.tiny.model import build_tiny
from tests.policy.batches import Maker, make_batch, replace

PAD = 9
STATS = ImageStats((0.5,) * 3, (0.5,) * 3, patch=14, merge=2, temporal_patch=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp("tiny")))


def text_row(name, ids, mask):
    return Row(name, np.array(ids), np.array(mask), (), ())


def test_two_rows_by_hand():
    rows = [text_row("a", [1, 2, 3, 4], [0, 1, 0, 1]), text_row("b", [5, 6], [0, 1])]
    padded = Collator(PAD, STATS).collate(rows, PixelCache({}))
    assert padded.input_ids.tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert padded.position_ids[0].tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    assert padded.target_ids.tolist() == [2, 4, 6]
    assert padded.target_positions.tolist() == [0, 2, 4]  # one before each target
    assert padded.target_rows.tolist() == [0, 0, 1]
    assert padded.target_columns.tolist() == [0, 1, 0]
    packed = Collator(PAD, STATS, "packed").collate(rows, PixelCache({}))
    assert packed.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert packed.position_ids[:, 0].tolist() == [[0, 1, 2, 3, 0, 1]] * 4
    assert packed.target_ids.tolist() == [2, 4, 6]
    assert packed.target_positions.tolist() == [0, 2, 4]


def test_rows_without_images_bring_a_dummy_that_nothing_shows():
    inputs = Collator(PAD, STATS).collate(IDLE, PixelCache({}))
    assert inputs.grids.tolist() == [[1, 2, 2]]
    assert inputs.patches.shape == (4, 588)
    assert inputs.feature_index.numel() == inputs.n_targets == 0


def test_each_image_is_there_once(folder):
    maker = Maker(folder)
    first, second = maker.image(2, 2), maker.image(3, 1)
    token = maker.info.image_token_id
    ids = np.array([1, *[token] * 4, 2, *[token] * 3, 3])
    a = Row("a", ids, np.array([0] * 9 + [1]), (first.ref.digest, second.ref.digest), (first.ref.grid, second.ref.grid))
    b = Row("b", np.array([1, *[token] * 3, 2]), np.array([0] * 4 + [1]), (second.ref.digest,), (second.ref.grid,))
    cache = PixelCache({s.ref.digest: s.png for s in (first, second)})
    inputs = Collator(token, read_image_stats(folder)).collate([b, a, b], cache)
    assert inputs.grids.tolist() == [[1, 2, 6], [1, 4, 4]]
    assert inputs.patches.shape[0] == 12 + 16
    assert inputs.feature_index.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 0, 1, 2]
    assert (inputs.input_ids == token).sum() == inputs.feature_index.numel()


def test_an_image_of_another_size_than_its_grid_is_refused(folder):
    maker = Maker(folder)
    image, token = maker.image(2, 2), maker.info.image_token_id
    row = Row("t7", np.array([token, 1]), np.array([0, 1]), (image.ref.digest,), ((1, 2, 2),))
    collator = Collator(token, read_image_stats(folder))
    with pytest.raises(ValueError, match=r"t7: image .* has 16 patches, its grid \(1, 2, 2\) says 4"):
        collator.collate([row], PixelCache({image.ref.digest: image.png}))
    with pytest.raises(KeyError, match="in none of the batch's image tables"):
        collator.collate([row], PixelCache({}))
    with pytest.raises(ValueError, match="t7: 1 image placeholders"):
        collator.collate([Row("t7", row.ids, row.mask, (), ())], PixelCache({}))


def test_a_first_id_cannot_be_a_target():
    with pytest.raises(ValueError, match="t7: its first id is trained"):
        Collator(PAD, STATS).collate([text_row("t7", [1, 2], [1, 0])], PixelCache({}))


def test_an_image_is_decoded_once(folder, monkeypatch):
    table, images = make_batch(folder)
    decoded = []
    from policy.network import collate

    real = collate.decode_png
    monkeypatch.setattr(collate, "decode_png", lambda png: decoded.append(png) or real(png))
    cache = PixelCache.from_tables([images, images])
    collator = Collator(Maker(folder).info.image_token_id, read_image_stats(folder))
    for row in rows_of(table):
        collator.collate([row], cache)
    assert len(decoded) == images.num_rows


def test_columns_are_views_that_cannot_be_written(folder):
    table, _ = make_batch(folder)
    for column in ("token_ids", "advantages"):
        for view, expected in zip(ragged(table, column), table.column(column).to_pylist(), strict=True):
            assert view.tolist() == expected
            assert not view.flags.writeable
            assert not view.flags.owndata


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_table_is_not_written_to(folder, layout):
    table, images = make_batch(folder)
    before = table.to_pylist()
    collator = Collator(Maker(folder).info.image_token_id, read_image_stats(folder), layout)
    inputs = collator.collate(rows_of(table), PixelCache.from_tables([images]))
    for name in ("input_ids", "target_ids", "patches"):
        getattr(inputs, name).zero_()  # no tensor shares memory with the table
    assert table.to_pylist() == before


def test_rows_of_a_slice_and_of_chunks(folder):
    table, _ = make_batch(folder)
    whole = [row.ids.tolist() for row in rows_of(table)]
    assert [row.ids.tolist() for row in rows_of(table.slice(2, 3))] == whole[2:5]
    import pyarrow as pa

    assert [row.ids.tolist() for row in rows_of(pa.concat_tables([table.slice(0, 2), table.slice(2)]))] == whole
    assert rows_of(table.slice(0, 0)) == []
    masked = replace(table, mask=[[0] * len(ids) for ids in whole])
    assert [row.n_targets for row in rows_of(masked)] == [0] * len(whole)


def test_packed_and_padded_hold_the_same_tokens(folder):
    table, images = make_batch(folder)
    rows, cache = rows_of(table), PixelCache.from_tables([images])
    token, stats = Maker(folder).info.image_token_id, read_image_stats(folder)
    padded, packed = (Collator(token, stats, layout).collate(rows, cache) for layout in ("padded", "packed"))
    for name in ("target_ids", "target_rows", "target_columns", "feature_index", "patches"):
        assert torch.equal(getattr(padded, name), getattr(packed, name)), name
    for inputs in (padded, packed):
        flat = inputs.input_ids.flatten()
        assert torch.equal(flat[inputs.target_positions + 1], inputs.target_ids)
