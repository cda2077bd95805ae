"""The critic: what a value belongs to, a loss that no split changes, and learning."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from policy.learning.critic import ValueModule, refuse_backbone, token_values
from policy.learning.steps import NonFiniteError
from policy.network.collate import Collator, PixelCache, rows_of
from policy.network.load import load
from policy.network.vision import take_single_frames
from policy.tiny.model import build_tiny
from schemas import batch
from schemas.config import Critic, Lora, Model, Optimiser
from schemas.config.file import SettingError
from tests.policy.batches import ARCHITECTURES, assert_same_gradients, make_batch, replace, split
from tests.policy.learning.critic_case import critic_of, gradient_of, lesson_of, with_head


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp("tiny"), scale=1.5))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_values_are_those_of_the_stock_models_hidden_states_one_id_earlier(architecture, tmp_path):
    """Two turns with an image and an observation between them: V_t reads the hidden state of id t - 1."""
    folder = str(build_tiny(tmp_path, architecture, scale=1.5))
    table, images = make_batch(folder, groups=1)
    critic = with_head(critic_of(folder))
    values = critic.values(table, [images])
    stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
    take_single_frames(stock.model.visual)
    weight, bias = critic.network.head.weight[0], critic.network.head.bias
    collator = Collator(stock.config.image_token_id, load(Model(path=folder)).image_stats)
    for row, found in zip(rows_of(table), values, strict=True):
        inputs = collator.collate([row], PixelCache.from_tables([images]))
        with torch.no_grad():
            hidden = stock.model(
                input_ids=inputs.input_ids,
                pixel_values=inputs.patches,
                image_grid_thw=inputs.grids,
                mm_token_type_ids=(inputs.input_ids == stock.config.image_token_id).int(),
            ).last_hidden_state[0]
            every = (hidden @ weight + bias).numpy()
        where = np.flatnonzero(row.mask)
        assert (np.diff(where) > 1).any(), "there must be an observation between two turns"
        np.testing.assert_allclose(found[where], every[where - 1], atol=2e-5)
        assert (found[row.mask == 0] == 0).all()
    assert np.std(np.concatenate([v[v != 0] for v in values])) > 0.01


def test_a_value_does_not_see_its_own_token_nor_what_follows(tiny):
    """Change the last sampled id: every value stays. Change the first: all but the first value move."""
    table, images = make_batch(tiny, groups=1, samples=1)
    critic = with_head(critic_of(tiny))
    [before] = critic.values(table, [images])
    [ids], [mask] = table["token_ids"].to_pylist(), np.asarray(table["mask"].to_pylist())
    where = np.flatnonzero(mask)
    for changed, same in ((where[-1], where), (where[0], where[:1])):
        other = list(ids)
        other[changed] = ids[changed] - 1 if ids[changed] > 100 else ids[changed] + 1
        [after] = critic.values(replace(table, token_ids=[other]), [images])
        np.testing.assert_allclose(after[same], before[same], atol=1e-6)
        moved = np.setdiff1d(where, same)
        assert (np.abs(after[moved] - before[moved]) > 1e-6).all()


def test_values_by_hand(tiny):
    """A head that reads one coordinate: its value is that coordinate of the hidden state."""
    loaded = load(Model(path=tiny))
    network = ValueModule(loaded)
    table, images = make_batch(tiny, groups=1)
    inputs = Collator(loaded.image_token_id, loaded.image_stats).collate(
        rows_of(table), PixelCache.from_tables([images])
    )
    assert token_values(network, inputs).tolist() == [0.0] * inputs.n_targets  # nothing learned yet
    with torch.no_grad():
        network.head.weight[0, 3] = 2.0
        network.move(-1.0)
        coordinate = network.hidden_states(inputs)[:, 3]
    torch.testing.assert_close(token_values(network, inputs), 2 * coordinate - 1)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_no_split_or_layout_changes_values_or_gradient(tiny, clip):
    table, images = make_batch(tiny)
    lesson = lesson_of(table)
    critic = with_head(critic_of(tiny, value_clip=clip))
    values = critic.values(table, [images])
    whole, report = gradient_of(critic, lesson, images)
    for rows in (1, 2, 5):
        found, other = gradient_of(critic, split(lesson, 1, rows), images)
        assert_same_gradients(found, whole)
        assert other.numbers() == pytest.approx(report.numbers(), rel=1e-4, abs=1e-6)
    packed = with_head(critic_of(tiny, value_clip=clip, layout="packed"))
    for a, b in zip(packed.values(table, [images]), values, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    found, other = gradient_of(packed, split(lesson, 1, 4), images)
    assert_same_gradients(found, whole)
    assert other.numbers() == pytest.approx(report.numbers(), rel=1e-4, abs=1e-6)


def test_the_report_by_numpy(tiny):
    """Loss, clip share and explained variance from the definitions, over trained ids alone."""
    table, images = make_batch(tiny)
    lesson = lesson_of(table)
    critic = with_head(critic_of(tiny, value_clip=0.5))
    now = np.concatenate([v[v != 0] for v in critic.values(table, [images])]).astype(float)
    masks = [np.asarray(m, dtype=bool) for m in lesson["mask"].to_pylist()]
    old, returns = (
        np.concatenate([np.asarray(row)[m] for row, m in zip(lesson[name].to_pylist(), masks, strict=True)])
        for name in ("values", "returns")
    )
    report = critic.update(lesson, [images])
    held = np.clip(now, old - 0.5, old + 0.5)
    worse = np.maximum((now - returns) ** 2, (held - returns) ** 2)
    assert report.loss == pytest.approx(0.5 * worse.mean(), rel=1e-4)
    assert report.clip_fraction == pytest.approx(np.mean(worse > (now - returns) ** 2))
    assert 0 < report.clip_fraction < 1 or len(now) < 10
    assert report.value_mean == pytest.approx(now.mean(), rel=1e-4)
    assert report.return_mean == pytest.approx(returns.mean(), rel=1e-5)
    assert report.explained_variance == pytest.approx(1 - np.var(returns - old) / np.var(returns), rel=1e-4)


def test_it_finds_the_scale_of_the_rewards_at_once_and_then_learns(tiny):
    """Returns around 6 that depend on the group: the first update already says 6, later ones tell groups apart."""
    table, images = make_batch(tiny, groups=2, samples=2)
    lesson = lesson_of(table)
    masks = lesson["mask"].to_pylist()
    per_row = [5.0 if name == "g0" else 7.0 for name in lesson["group_id"].to_pylist()]
    lesson = replace(lesson, returns=[[r * x for x in m] for r, m in zip(per_row, masks, strict=True)])
    critic = critic_of(tiny, optimiser=Optimiser(lr=3e-3), value_clip=0.5)

    def step():
        known = replace(lesson, values=[v.tolist() for v in critic.values(table, [images])])
        return critic.update(split(known, 1, 2), [images])

    first = step()
    tokens = np.asarray([sum(m) for m in masks])
    assert first.value_mean == pytest.approx(np.dot(tokens, per_row) / tokens.sum())
    assert first.explained_variance == pytest.approx(0.0, abs=1e-5)
    assert first.clip_fraction == 0, "the move of all values is not held by the clip"
    for _ in range(30):
        last = step()
    assert last.explained_variance > 0.9
    assert last.loss < 0.1 * first.loss


def test_a_step_that_is_not_finite_is_skipped_and_finally_fatal(tiny):
    table, images = make_batch(tiny)
    lesson = lesson_of(table)
    bad = lesson["returns"].to_pylist()
    bad[1] = [math.nan * x if x else 0.0 for x in bad[1]]
    poisoned = replace(lesson, returns=bad)
    critic = with_head(critic_of(tiny))
    before = {n: p.detach().clone() for n, p in critic.network.named_parameters()}
    report = critic.update(split(poisoned, 1, 2), [images])
    assert (report.skipped, report.optimiser_steps) == (1, 0)
    assert {n for n, v in report.numbers().items() if v is not None} == {"lr", "optimiser_steps", "skipped"}
    assert all(torch.equal(p, before[n]) for n, p in critic.network.named_parameters())
    with pytest.raises(NonFiniteError, match=r"lower critic\.optimiser\.lr"):
        critic.update(poisoned, [images])
    fresh = critic_of(tiny)
    assert fresh.update(poisoned, [images]).skipped == 1
    assert fresh.network.head.bias.item() == 0, "what is not finite moves nothing"


def test_an_update_without_rows_does_nothing(tiny):
    critic = critic_of(tiny)
    report = critic.update(batch.CRITIC.empty_table(), [])
    assert (report.optimiser_steps, report.skipped) == (0, 0)
    assert critic.values(make_batch(tiny)[0].slice(0, 0), []) == []


def test_no_logits_are_ever_kept_or_trained(tiny):
    critic = critic_of(tiny)
    assert not any("lm_head" in name for name, _ in critic.network.named_parameters(remove_duplicate=False))


def test_adapters_and_frozen_vision_are_the_model_sections(tiny):
    table, images = make_batch(tiny)
    for options, moves in (({"lora": Lora(rank=2)}, (".lora_", "head.")), ({"freeze_vision": True}, ("",))):
        critic = with_head(critic_of(tiny, model=options))
        before = {n: p.detach().clone() for n, p in critic.network.named_parameters()}
        for _ in range(2):
            critic.update(lesson_of(table), [images])
        moved = {n for n, p in critic.network.named_parameters() if not torch.equal(p, before[n])}
        assert {"head.weight", "head.bias"} <= moved
        assert all(any(part in name for part in moves) for name in moved)
        assert not any(".visual." in name for name in moved)


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full", "lora"])
def test_a_resumed_critic_is_bit_identical(tiny, tmp_path, lora):
    table, images = make_batch(tiny, groups=1)
    lesson = lesson_of(table)
    straight = critic_of(tiny, model={"lora": lora}, optimiser=Optimiser(lr=1e-3, warmup_steps=3))
    straight.update(lesson, [images])
    straight.save(str(tmp_path / "one"), {"step": 1})
    expected = [straight.update(lesson, [images]) for _ in range(2)]
    resumed = critic_of(tiny, model={"lora": lora}, optimiser=Optimiser(lr=1e-3, warmup_steps=3))
    assert resumed.load(str(tmp_path / "one")) == {"step": 1}
    assert [resumed.update(lesson, [images]) for _ in range(2)] == expected
    for (name, a), b in zip(straight.network.named_parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_backbone_that_cannot_read_the_policys_ids_is_refused(tiny, tmp_path):
    other = str(build_tiny(tmp_path / "other", "qwen2_vl"))
    same = str(build_tiny(tmp_path / "same", seed=5))
    refuse_backbone(Model(path=tiny), Critic())
    refuse_backbone(Model(path=tiny), Critic(path=same))
    with pytest.raises(ValueError, match=r"critic\.path=.*: has family"):
        refuse_backbone(Model(path=tiny), Critic(path=other))
    with pytest.raises(SettingError, match=r"critic\.path=.*: no config\.json"):
        refuse_backbone(Model(path=tiny), Critic(path=str(tmp_path / "nowhere")))
