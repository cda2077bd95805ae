"""One process: gradients that no split changes, optimiser steps, and what is skipped or refused."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText

from policy.learning import policy_batch as training_batch
from policy.learning.learner import NonFiniteError, PolicyLearner
from policy.learning.reports import StepLimits, StepReport, summarise
from policy.learning.scorer import Scorer
from policy.learning.sums import SUMS, LossSums
from policy.network.collate import PixelCache, rows_of
from policy.network.vision import take_single_frames
from policy.tiny.model import build_tiny
from schemas.config import Algorithm, Kl, Learner, Lora, Loss, Model, Optimiser
from schemas.config.micro_batches import MicroBatches
from tests.policy.batches import ARCHITECTURES, assert_same_gradients, make_batch, replace, split

KL = 0.05
SMOOTH = Optimiser(lr=1e-2, eps=1e-2, max_grad_norm=1e6)  # a large eps: rounding of tiny gradients stays tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp("tiny")))


def scorer_of(learner, rows):
    return Scorer(learner.policy, learner._collator, MicroBatches(rows), "cpu")


def learner_of(folder, algorithm=None, *, optimiser=SMOOTH, layout="padded", temperature=1.0, **model):
    return PolicyLearner(
        Model(path=folder, **model),
        Learner(optimiser=optimiser, layout=layout, micro_batch_rows=4, max_nonfinite_steps=1),
        algorithm,
        total_steps=10,
        temperature=temperature,
        device="cpu",
    )


def gradient_of(learner, table, images, kl=KL):
    """The whole gradient at the first optimiser step, and the report."""
    found = {}

    def record():
        found.update({n: p.grad.clone() for n, p in learner.policy.named_parameters() if p.grad is not None})

    learner.optimiser.step = record
    report = learner.update(table, [images], kl)
    return found, report


ALGORITHM = Algorithm(loss=Loss(entropy_coefficient=0.01, denominator="sequence"), kl=Kl(coefficient=KL))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_split_changes_the_gradient(architecture, tmp_path):
    folder = str(build_tiny(tmp_path, architecture))
    table, images = make_batch(folder)
    learner = learner_of(folder, ALGORITHM)
    whole, report = gradient_of(learner, table, images)
    for rows in (1, 2, 5):
        found, other = gradient_of(learner, split(table, 1, rows), images)
        assert_same_gradients(found, whole)
        assert other.numbers() == pytest.approx(report.numbers(), rel=1e-4, abs=1e-6)
    packed, _ = gradient_of(learner_of(folder, ALGORITHM, layout="packed"), split(table, 1, 4), images)
    assert_same_gradients(packed, whole)


def test_supervised_gradient_is_that_of_cross_entropy(tiny):
    """Against the stock model's logits and torch's cross-entropy over every target token."""
    table, images = make_batch(tiny)
    table = replace(table, advantages=[[float(x) for x in mask] for mask in table["mask"].to_pylist()])
    learner = learner_of(tiny)
    found, report = gradient_of(learner, split(table, 1, 2), images, kl=0.0)

    stock = AutoModelForImageTextToText.from_pretrained(tiny)
    take_single_frames(stock.model.visual)  # takes the collator's single frames; equal by its own test
    forbidden = learner.policy._forbidden.nonzero().flatten()
    total = torch.zeros(())
    for row in rows_of(table):
        inputs = learner._collator.collate([row], PixelCache.from_tables([images]))
        logits = stock(
            input_ids=inputs.input_ids,
            pixel_values=inputs.patches,
            image_grid_thw=inputs.grids,
            mm_token_type_ids=(inputs.input_ids == stock.config.image_token_id).int(),
        ).logits[0]
        labels = torch.from_numpy(np.where(row.mask, row.ids, -100).astype(np.int64))
        total = total + cross_entropy(logits.index_fill(1, forbidden, -1e30)[:-1], labels[1:], reduction="sum")
    loss = total / sum(row.n_targets for row in rows_of(table))
    loss.backward()
    expected = {f"model.{name}": p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert report.means.loss == pytest.approx(loss.item(), rel=1e-5)
    assert_same_gradients(found, expected)


def test_supervised_training_lowers_the_loss(tiny):
    table, images = make_batch(tiny)
    table = replace(table, advantages=[[float(x) for x in mask] for mask in table["mask"].to_pylist()])
    learner = learner_of(tiny, optimiser=Optimiser(lr=3e-3))
    losses = [learner.update(split(table, 1, 3), [images], 0.0).means.loss for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]
    assert losses[0] == pytest.approx(math.log(learner.policy._forbidden.numel()), rel=0.3)


def test_log_probabilities_are_aligned_with_the_ids(tiny):
    table, images = make_batch(tiny)
    learner = learner_of(tiny, temperature=0.8)
    values = learner.logprobs(table, [images])
    assert [len(v) for v in values] == [len(ids) for ids in table["token_ids"].to_pylist()]
    for value, mask in zip(values, table["mask"].to_pylist(), strict=True):
        assert value.dtype == np.float32
        assert ((value != 0) == np.array(mask, dtype=bool)).all()
    for rows in (1, 5):
        for a, b in zip(scorer_of(learner, rows).logprobs(table, [images]), values, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    frozen = PolicyLearner.frozen(Model(path=tiny), Learner(), temperature=0.8, device="cpu")
    for a, b in zip(frozen.logprobs(table, [images]), values, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert learner.logprobs(table.slice(0, 0), []) == []


def test_mismatch_is_zero_against_its_own_log_probabilities(tiny):
    table, images = make_batch(tiny)
    learner = learner_of(tiny, Algorithm(kl=Kl(coefficient=KL)))
    own = [values.tolist() for values in learner.logprobs(table, [images])]
    table = replace(table, behaviour_logprobs=own, reference_logprobs=own)
    report = learner.update(table, [images], KL)
    assert report.mismatch_max < 1e-5
    assert report.means.kl == pytest.approx(0, abs=1e-9)
    assert report.means.ratio == pytest.approx(1)
    shifted = replace(table, behaviour_logprobs=[[x - 0.25 * (x != 0) for x in row] for row in own])
    assert learner_of(tiny, Algorithm()).update(shifted, [images], 0.0).means.mismatch == pytest.approx(0.25, abs=1e-4)


def test_with_several_steps_the_ratio_is_to_the_policy_before_the_first(tiny, monkeypatch):
    """Two optimiser steps over the same rows: the second sees what the first changed."""
    table, images = make_batch(tiny)
    twice = pa.concat_tables([table, replace(table, optimiser_step=[1] * table.num_rows)]).combine_chunks()
    learner = learner_of(tiny, Algorithm(), optimiser=Optimiser(lr=1e-3))
    before = learner.logprobs(table, [images])
    seen = []
    targets_of = training_batch.TrainingBatch.targets
    monkeypatch.setattr(
        training_batch.TrainingBatch, "targets", lambda *given: seen.append(targets_of(*given)) or seen[-1]
    )
    report = learner.update(split(twice, 1, 4), [images], 0.0)
    assert report.optimiser_steps == 2
    assert learner.steps_taken == 2
    assert [targets.proximal is None for targets in seen] == [True, True, False, False]
    flat = torch.cat([targets.proximal[targets.mask.bool()] for targets in seen[2:]])
    expected = np.concatenate([v[v != 0] for v in before])
    torch.testing.assert_close(flat, torch.from_numpy(expected), atol=1e-5, rtol=0)
    assert report.means.ratio != 1


def parameters(learner):
    return {name: p.detach().clone() for name, p in learner.policy.named_parameters()}


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_counted_and_finally_fatal(tiny, poison):
    table, images = make_batch(tiny)
    bad = table["advantages"].to_pylist()
    bad[2] = [poison * bool(x) if x else 0.0 for x in bad[2]]
    poisoned = replace(table, advantages=bad)
    learner = learner_of(tiny, Algorithm())
    before = parameters(learner)
    report = learner.update(split(poisoned, 1, 2), [images], 0.0)
    assert (report.skipped, report.optimiser_steps) == (1, 0)
    counted = {name for name, value in report.numbers().items() if value is not None}
    assert counted == {"lr", "trained_tokens", "optimiser_steps", "skipped", "skipped_over"}
    assert all(torch.equal(p, before[name]) for name, p in parameters(learner).items())
    assert learner.update(table, [images], 0.0).skipped == 0  # a good step resets the count
    learner.update(poisoned, [images], 0.0)
    with pytest.raises(NonFiniteError, match="2 optimiser steps in a row"):
        learner.update(poisoned, [images], 0.0)


def test_a_step_over_a_limit_is_skipped_counted_and_finally_fatal(tiny):
    """Reference log-probabilities 3 below the policy's own: k3 is exp(-3) + 3 - 1 = 2.05 for every token."""
    table, images = make_batch(tiny)
    own = [values.tolist() for values in learner_of(tiny, Algorithm()).logprobs(table, [images])]
    far = replace(table, reference_logprobs=[[x - 3.0 * (x != 0) for x in row] for row in own])
    options = Learner(optimiser=SMOOTH, max_nonfinite_steps=1, max_kl=2.0)
    learner = PolicyLearner(Model(path=tiny), options, Algorithm(), total_steps=10, temperature=1.0, device="cpu")
    before = parameters(learner)
    report = learner.update(far, [images], KL)
    assert (report.skipped, report.skipped_over, report.optimiser_steps) == (1, 1, 0)
    assert report.means.kl == pytest.approx(math.exp(-3) + 3 - 1, abs=1e-3), "how far it has gone was measured"
    assert report.numbers()["loss"] is report.numbers()["entropy"] is report.mismatch_max is report.grad_norm is None
    assert all(torch.equal(p, before[name]) for name, p in parameters(learner).items())
    with pytest.raises(NonFiniteError, match=r"last mean kl 2\.\d+ above learner\.max_kl=2"):
        learner.update(far, [images], KL)
    near = replace(table, reference_logprobs=own)
    assert learner.update(near, [images], KL).skipped == 0


def step_of(*, norm=1.0, **sums):
    """An optimiser step of 10 trained tokens, all with a reference."""
    known = dict.fromkeys(SUMS, 0.0) | {"loss": 0.1, "tokens": 10.0, "kl_tokens": 10.0} | sums
    return StepReport(LossSums(**known), largest_mismatch=0.25, grad_norm=norm)


def test_limits_are_held_against_means_over_tokens():
    step = step_of(kl=5.0, ratio=40.0)
    assert step.held_to(StepLimits()).taken
    assert step.held_to(StepLimits(kl=0.5, ratio=4.0)).taken
    assert step.held_to(StepLimits(kl=0.49)).over == "mean kl 0.5 above learner.max_kl=0.49"
    assert step.held_to(StepLimits(kl=1.0, ratio=3.9)).over == "mean ratio 4 above learner.max_ratio=3.9"
    assert not step_of(kl=math.nan, ratio=1.0).held_to(StepLimits(kl=1.0)).taken


def test_the_report_is_of_taken_steps_and_its_kl_of_all_that_are_finite():
    """Two steps of 10 tokens taken, one of 20 over the limit, one whose gradient is not finite."""
    limits = StepLimits(kl=1.0)
    steps = [
        step_of(loss=0.1, kl=2.0, entropy=4.0),
        step_of(loss=0.5, kl=4.0, entropy=6.0, norm=3.0),
        step_of(loss=9.0, kl=100.0, entropy=80.0, tokens=20.0, kl_tokens=20.0),
        step_of(kl=7.0, norm=math.inf),
    ]
    report = summarise([step.held_to(limits) for step in steps], lr=0.5)
    assert (report.optimiser_steps, report.skipped, report.skipped_over, report.trained_tokens) == (2, 2, 1, 20)
    assert report.means.loss == pytest.approx(0.3)
    assert report.means.entropy == pytest.approx(10 / 20)
    assert report.means.kl == pytest.approx(106 / 40)
    assert (report.grad_norm, report.mismatch_max, report.lr) == (2.0, 0.25, 0.5)


@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_a_kl_that_is_not_finite_is_not_measured(kl):
    report = summarise([step_of(kl=kl).held_to(StepLimits(kl=1.0)), step_of(kl=3.0, norm=math.nan)], lr=0.1)
    assert report.means.kl is None
    assert report.skipped == 2
    assert summarise([step_of(kl=kl), step_of(kl=3.0)], lr=0.1).means.kl == pytest.approx(0.3)


def test_an_update_that_trains_no_token_has_a_loss_and_no_means_over_tokens():
    report = summarise([step_of(loss=0.0, tokens=0.0, kl_tokens=0.0)], lr=0.1)
    assert report.means.loss == 0
    assert report.means.entropy is report.means.kl is None


def test_a_batch_kept_for_inspection_reads_back(tiny, tmp_path):
    table, images = make_batch(tiny)
    training_batch.write_batch(tmp_path / "kept", table, [images, images])
    for name, expected in (("training", table), ("images", pa.concat_tables([images, images]))):
        with pa.memory_map(str(tmp_path / "kept" / f"{name}.arrow")) as file:
            assert pa.ipc.open_file(file).read_all().equals(expected)


def test_the_schedule_moves_by_optimiser_steps(tiny):
    table, images = make_batch(tiny, mini_batches=2)
    optimiser = Optimiser(lr=1.0, warmup_steps=4, schedule="constant", max_grad_norm=1e-9)
    learner = learner_of(tiny, Algorithm(), optimiser=optimiser)
    assert learner.update(table, [images], 0.0).lr == pytest.approx(0.5)  # of step 1
    assert learner.update(table, [images], 0.0).lr == pytest.approx(1.0)


def test_the_gradient_is_clipped_as_a_whole(tiny):
    table, images = make_batch(tiny)
    learner = learner_of(tiny, Algorithm(), optimiser=Optimiser(max_grad_norm=0.01))
    found, report = gradient_of(learner, table, images, 0.0)
    assert report.grad_norm > 0.01
    assert torch.cat([g.flatten() for g in found.values()]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_frozen_vision_does_not_move(tiny):
    table, images = make_batch(tiny)
    learner = learner_of(tiny, Algorithm(), freeze_vision=True)
    before = parameters(learner)
    learner.update(table, [images], 0.0)
    moved = {name for name, p in parameters(learner).items() if not torch.equal(p, before[name])}
    assert moved
    assert not any(".visual." in name for name in moved)


def test_only_adapters_move(tiny):
    table, images = make_batch(tiny)
    learner = learner_of(tiny, Algorithm(), lora=Lora(rank=2))
    before = parameters(learner)
    learner.update(table, [images], 0.0)
    learner.update(table, [images], 0.0)
    moved = {name for name, p in parameters(learner).items() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".lora_" in name}


def test_a_coefficient_without_a_reference_is_refused(tiny):
    table, images = make_batch(tiny)
    nothing = replace(table, reference_logprobs=[None] * table.num_rows)
    learner = learner_of(tiny, Algorithm())
    with pytest.raises(ValueError, match=r"rows without reference_logprobs"):
        learner.update(nothing, [images], 0.1)
    assert learner.update(nothing, [images], 0.0).means.kl is None


def test_rows_of_a_step_are_counted_together(tiny):
    table, images = make_batch(tiny)
    table = replace(table, denominator=[1.0, 2.0, *table["denominator"].to_pylist()[2:]])
    with pytest.raises(ValueError, match=r"optimiser step 0: denominators \[1\.0, 2\.0"):
        learner_of(tiny, Algorithm()).update(table, [images], 0.0)


def test_bfloat16_needs_a_process_group(tiny):
    table, images = make_batch(tiny)
    with pytest.raises(ValueError, match="initialise a process group"):
        learner_of(tiny, Algorithm(), dtype="bfloat16").update(table, [images], 0.0)
