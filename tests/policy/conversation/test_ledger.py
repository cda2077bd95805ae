"""The ledger: what is trained on is exactly what was sampled, in both views."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.conversation.ledger import ImageRef, Ledger

PAD = 99
image_refs = st.builds(
    ImageRef,
    digest=st.text("0123456789abcdef", min_size=4, max_size=4),
    grid=st.tuples(st.just(1), st.integers(1, 8), st.integers(1, 8)),
    n_tokens=st.integers(1, 7),
)
plain_ids = st.lists(st.integers(0, 50), max_size=6)


@st.composite
def with_images(draw):
    """Ids with one placeholder for each of 0..2 images."""
    ids, images = draw(plain_ids), draw(st.lists(image_refs, max_size=2))
    for _ in images:
        ids.insert(draw(st.integers(0, len(ids))), PAD)
    return ids, images


turns = st.lists(
    st.tuples(st.lists(st.tuples(st.integers(0, 50), st.floats(-9, 0)), max_size=5), with_images()), max_size=4
)


@given(with_images(), turns)
def test_the_mask_covers_exactly_the_sampled_ids(prompt, spoken):
    ledger = Ledger(*prompt, image_token_id=PAD)
    sampled, logprobs = [], []
    for version, (pairs, observation) in enumerate(spoken):
        ledger.append_sampled([t for t, _ in pairs], [p for _, p in pairs], version, "text", "stop")
        ledger.append_observation(*observation)
        sampled += [t for t, _ in pairs]
        logprobs += [p for _, p in pairs]
    ids, mask, behaviour = ledger.learner_ids(), ledger.mask(), ledger.behaviour_logprobs()
    assert len(ids) == len(mask) == len(behaviour)
    assert sum(mask) == len(sampled) == ledger.n_sampled
    assert [t for t, m in zip(ids, mask, strict=True) if m] == sampled
    assert [p for p, m in zip(behaviour, mask, strict=True) if m] == logprobs
    assert not any(p for p, m in zip(behaviour, mask, strict=True) if not m)
    assert [t.policy_version for t in ledger.turns] == list(range(len(spoken)))


@given(with_images(), turns)
def test_the_two_views_hold_the_same_conversation(prompt, spoken):
    ledger = Ledger(*prompt, image_token_id=PAD)
    for pairs, observation in spoken:
        ledger.append_sampled([t for t, _ in pairs], [p for _, p in pairs], 0, "", "stop")
        ledger.append_observation(*observation)
    # The oracle expands the engine's view by hand, image by image.
    expanded, images = [], list(ledger.images)
    for token in ledger.engine_ids():
        expanded += [PAD] * images.pop(0).n_tokens if token == PAD else [token]
    assert not images
    assert ledger.learner_ids() == expanded


def ledger_after_a_turn():
    ledger = Ledger([1, PAD, 2], [ImageRef("a", (1, 2, 4), 2)], PAD, forbidden_ids={77})
    ledger.append_sampled([5, 6], [-0.5, -1.0], 0, "hi", "stop")
    return ledger


def test_two_images_by_hand():
    ledger = ledger_after_a_turn()
    ledger.append_observation([3, PAD], [ImageRef("b", (1, 4, 6), 3)])
    ledger.append_sampled([7], [-2.0], 1, "so", "stop")
    assert ledger.engine_ids() == [1, PAD, 2, 5, 6, 3, PAD, 7]
    assert ledger.learner_ids() == [1, PAD, PAD, 2, 5, 6, 3, PAD, PAD, PAD, 7]
    assert ledger.mask() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1]
    assert ledger.behaviour_logprobs() == [0, 0, 0, 0, -0.5, -1.0, 0, 0, 0, 0, -2.0]
    assert [image.digest for image in ledger.images] == ["a", "b"]


@pytest.mark.parametrize(("ids", "images"), [([1, PAD, PAD], 1), ([1], 1), ([PAD], 0)])
def test_placeholders_must_match_images(ids, images):
    refs = [ImageRef("a", (1, 2, 2), 1)] * images
    with pytest.raises(ValueError, match="image placeholders"):
        Ledger(ids, refs, PAD)
    with pytest.raises(ValueError, match="image placeholders"):
        ledger_after_a_turn().append_observation(ids, refs)


@pytest.mark.parametrize("bad", [PAD, 77])
def test_a_sampled_placeholder_is_refused(bad):
    ledger = ledger_after_a_turn()
    ledger.append_observation([3])
    with pytest.raises(ValueError, match=f"sampled id {bad} at position 1"):
        ledger.append_sampled([4, bad], [-1.0, -1.0], 0, "", "stop")
    assert ledger.n_sampled == 2, "a refused turn leaves the ledger as it was"


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_log_probability_that_is_not_finite_is_refused(bad):
    ledger = ledger_after_a_turn()
    ledger.append_observation([3])
    with pytest.raises(ValueError, match="not finite"):
        ledger.append_sampled([4], [bad], 0, "", "stop")


def test_segments_alternate():
    ledger = ledger_after_a_turn()
    with pytest.raises(ValueError, match="append the observation"):
        ledger.append_sampled([4], [-1.0], 0, "", "stop")
    with pytest.raises(ValueError, match="follows a sampled turn"):
        Ledger([1], [], PAD).append_observation([2])
    ledger.append_observation([3])
    with pytest.raises(ValueError, match="1 ids but 2"):
        ledger.append_sampled([4], [-1.0, -1.0], 0, "", "stop")
