"""M-RoPE positions against the three families' own rule, and packing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForImageTextToText

from policy.network.positions import mrope_positions, packed_positions
from tests.policy.batches import ARCHITECTURES

PAD, TEXT = 9, 5


@pytest.fixture(scope="module", params=ARCHITECTURES)
def rope_index(request):
    """get_rope_index of a family, on a model without weights."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(request.param))
    return model.model.get_rope_index


grids = st.tuples(st.just(1), st.integers(1, 5).map(lambda n: 2 * n), st.integers(1, 5).map(lambda n: 2 * n))
rows = st.lists(st.tuples(st.integers(1, 6), grids), min_size=1, max_size=3)  # text before each image, image


def build(parts, tail):
    ids = []
    for text, (t, h, w) in parts:
        ids += [TEXT] * text + [PAD] * (t * h * w // 4)
    return np.array(ids + [TEXT] * tail), [grid for _, grid in parts]


@given(parts=rows, tail=st.integers(0, 5))
def test_the_families_own_positions(rope_index, parts, tail):
    ids, sizes = build(parts, tail)
    expected, _ = rope_index(
        input_ids=torch.tensor(ids)[None],
        mm_token_type_ids=torch.tensor(ids == PAD)[None].int(),
        image_grid_thw=torch.tensor(sizes),
    )
    assert np.array_equal(mrope_positions(ids, sizes, PAD, merge=2), expected[:, 0].numpy())


def test_two_images_by_hand():
    ids = np.array([1, PAD, PAD, 2, PAD, 3])
    positions = mrope_positions(ids, [(1, 4, 2), (1, 2, 2)], PAD, merge=2)
    assert positions.tolist() == [[0, 1, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5], [0, 1, 1, 3, 4, 5]]


def test_text_alone_counts():
    assert mrope_positions(np.array([1, 2, 3]), [], PAD, merge=2).tolist() == [[0, 1, 2]] * 3


def test_placeholders_must_fill_the_grids():
    with pytest.raises(ValueError, match=r"1 image placeholders .* 2 tokens"):
        mrope_positions(np.array([1, PAD]), [(1, 2, 4)], PAD, merge=2)
    with pytest.raises(ValueError, match="not in one run"):
        mrope_positions(np.array([PAD, 1, PAD]), [(1, 2, 4)], PAD, merge=2)


def test_packing_counts_each_row_anew():
    first = mrope_positions(np.array([1, PAD, 2]), [(1, 2, 2)], PAD, merge=2)
    packed = packed_positions([first, first[:, :2]])
    assert packed[0].tolist() == [0, 1, 2, 0, 1]
    assert np.array_equal(packed[1:], np.concatenate([first, first[:, :2]], axis=1))
