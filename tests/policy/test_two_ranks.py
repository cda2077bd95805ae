"""Two gloo ranks against one process: gradients, shards, adapters, and checkpoints at another number of ranks.

The ranks run once, in two_ranks.py; the tests compare what they left.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from policy.network.collate import rows_of
from policy.network.load import base_model
from policy.state.adapters import KeptBase, merge_adapters
from policy.state.sharding import join_shards
from policy.tiny.model import build_tiny
from schemas.config import Lora, Model
from tests.policy import two_ranks
from tests.policy.batches import ARCHITECTURES, assert_same_gradients, make_batch, replace, split
from tests.policy.learning.critic_case import critic_of, gradient_of, lesson_of, with_head

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder):
    """What each of the two ranks found."""
    for architecture in ARCHITECTURES:
        build_tiny(folder / architecture, architecture)
    untie(folder / "qwen2_5_vl", folder / "untied")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.policy.two_ranks", str(rank), str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        logs = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, log in zip(started, logs, strict=True):
        assert process.returncode == 0, log[-4000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture
def first(ranks):
    return ranks[0]


def untie(tied: Path, out: Path) -> None:
    """The same model with an output layer of its own, in two files named as the published large models' are."""
    model = AutoModelForImageTextToText.from_pretrained(tied)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    torch.manual_seed(5)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(out, max_shard_size="2MB")
    assert (out / "model.safetensors.index.json").is_file()
    for file in tied.iterdir():
        if file.suffix in (".json", ".jinja") and not (out / file.name).exists():
            shutil.copy2(file, out)


@pytest.mark.parametrize("name", two_ranks.STARTS)
def test_weights_streamed_to_the_shards_are_those_of_a_plain_load(folder, ranks, name):
    """Bit for bit: parameters, buffers, ties and what generation reads; only rank 0 touched the file."""
    architecture, options = two_ranks.STARTS[name]
    plain = two_ranks.learner_of(folder / architecture, **options)
    for rank in ranks:
        found = rank[f"start_{name}"]
        expected = dict(plain.policy.named_parameters())
        assert found["weights"].keys() == expected.keys()
        for key, weight in expected.items():
            assert found["weights"][key].dtype == weight.dtype, key
            assert torch.equal(found["weights"][key], weight), key
        buffers = dict(plain.policy.named_buffers())
        assert found["buffers"].keys() == buffers.keys()
        assert all(torch.equal(found["buffers"][key], buffer) for key, buffer in buffers.items())
        assert found["trained"] == {n for n, p in plain.policy.named_parameters() if p.requires_grad}
        assert found["tied"] == (name != "untied")
        assert found["generation"] == base_model(plain.policy.model).generation_config.to_dict()
    assert [rank["start_read"] > 200 for rank in ranks] == [True, False]
    assert ranks[1]["start_read"] == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_and_reports_are_those_of_one_process(folder, ranks, architecture):
    table, images = make_batch(str(folder / architecture))
    learner = two_ranks.learner_of(folder / architecture)
    expected = two_ranks.recorded(learner, split(table, 1, 4), images)
    for found in (rank[architecture] for rank in ranks):
        assert_same_gradients(found["grads"], expected["grads"])
        assert found["report"] == pytest.approx(expected["report"], rel=1e-4, abs=1e-6)
    assert expected["report"]["grad_norm"] > two_ranks.SMOOTH.max_grad_norm, "the clip must be at work"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_is_sharded_by_rows(ranks, architecture):
    for rank in ranks:
        assert rank[architecture]["sharded"]
        assert all(rank[architecture]["sharded"])
    for name, (_, total) in ranks[0][architecture]["rows"].items():
        locals_ = [rank[architecture]["rows"][name][0] for rank in ranks]
        assert sum(locals_) == total, name
        assert max(locals_) == -(-total // 2), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_joined_shards_are_the_updated_state_dict(folder, ranks, architecture):
    """By the names of transformers, a tied lm_head among them."""
    table, images = make_batch(str(folder / architecture))
    learner = two_ranks.learner_of(folder / architecture)
    learner.update(split(table, 1, 6), [images], two_ranks.KL)
    expected = learner.policy.model.state_dict()
    joined = join_shards([rank[architecture]["shards"] for rank in ranks])
    assert joined.keys() == expected.keys()
    assert "lm_head.weight" in joined
    assert np.array_equal(joined["lm_head.weight"], joined["model.language_model.embed_tokens.weight"])
    stock = AutoModelForImageTextToText.from_pretrained(folder / architecture).state_dict()
    for name, weight in joined.items():
        torch.testing.assert_close(torch.from_numpy(weight), expected[name], atol=2e-5, rtol=0, msg=name)
    assert any(not torch.equal(torch.from_numpy(joined[name]), stock[name]) for name in stock)


def test_ranks_without_images_and_with_fewer_micro_batches(folder, ranks):
    table, images, seats = two_ranks.mixed(folder / "qwen2_5_vl")
    learner = two_ranks.learner_of(folder / "qwen2_5_vl")
    expected = two_ranks.recorded(learner, table, images)
    logprobs = learner.logprobs(table, [images])
    for number, rank in enumerate(ranks):
        assert_same_gradients(rank["uneven"]["grads"], expected["grads"])
        assert rank["uneven"]["report"] == pytest.approx(expected["report"], rel=1e-4, abs=1e-6)
        own = [values for values, (r, _) in zip(logprobs, seats, strict=True) if r == number]
        for found, values in zip(rank["uneven_logprobs"], own, strict=True):
            np.testing.assert_allclose(found, values, atol=1e-4)
    assert [len(row.digests) for row in rows_of(table)] == [2, 2, 2, 0]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_passes_filled_with_tokens_train_as_fixed_rows_do(folder, ranks, layout):
    """On two ranks with unequal numbers of passes, images on one alone, and on one rank: the same gradient."""
    options = {"micro_batch_tokens": two_ranks.BUDGET, "layout": layout}
    table, images = two_ranks.budgeted(folder / "qwen2_5_vl", options)
    fixed = two_ranks.learner_of(folder / "qwen2_5_vl", learner={"micro_batch_rows": 1})
    expected = two_ranks.recorded(fixed, split(table, 1, 1), images)
    alone = two_ranks.learner_of(folder / "qwen2_5_vl", learner=options)
    logprobs = alone.logprobs(table, [images])
    found = two_ranks.recorded(alone, replace(table, rank=[0] * 6, micro_batch=[0, 0, 1, 1, 2, 2]), images)
    assert_same_gradients(found["grads"], expected["grads"])
    for number, rank in enumerate(ranks):
        assert_same_gradients(rank[f"budget_{layout}"]["grads"], expected["grads"])
        assert rank[f"budget_{layout}"]["report"] == pytest.approx(expected["report"], rel=1e-4, abs=1e-6)
        own = logprobs[:4] if number == 0 else logprobs[4:]
        for values, wanted in zip(rank[f"budget_{layout}"]["logprobs"], own, strict=True):
            np.testing.assert_allclose(values, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["copies", "offload"])
def test_copies_and_offload_change_nothing_but_where_things_lie(ranks, name):
    table = ranks[0]["qwen2_5_vl"]
    for rank in ranks:
        assert_same_gradients(rank[name]["grads"], table["grads"])
        assert rank[name]["report"] == pytest.approx(table["report"], rel=1e-4, abs=1e-6)
        for key, weight in rank[name]["weights"].items():
            assert torch.equal(rank[name]["loaded"][key], weight), key
    expected = join_shards([rank["qwen2_5_vl"]["shards"] for rank in ranks])
    shards = [rank[name]["shards"] for rank in ranks]
    joined = join_shards(shards[:1] if name == "copies" else shards)
    assert joined.keys() == expected.keys()
    for key, weight in joined.items():
        np.testing.assert_allclose(weight, expected[key], atol=2e-5, err_msg=key)


def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_on_both(ranks):
    assert [rank["poisoned"] for rank in ranks] == [(1, True), (1, True)]


def test_bfloat16_is_the_computation_and_float32_the_weights(ranks, first):
    for name in ("bfloat16", "bfloat16_lora"):
        assert first[f"{name}_types"] == {torch.float32}
        report = first[name]["report"]
        assert report["optimiser_steps"] == 1
        # bfloat16 has 8 bits of mantissa: log-probabilities of about -6 differ by some hundredths.
        assert report["entropy"] == pytest.approx(first["qwen2_5_vl"]["report"]["entropy"], abs=0.02)
        assert report["entropy"] != first["qwen2_5_vl"]["report"]["entropy"]


def test_the_exact_kl_with_a_sharded_reference_is_that_of_one_process(folder, ranks):
    tiny = folder / "qwen2_5_vl"
    table, images, _ = two_ranks.mixed(tiny)
    learner = two_ranks.learner_of(tiny, algorithm=two_ranks.EXACT)
    learner.update(table, [images], two_ranks.KL)
    expected = two_ranks.recorded(learner, table, images)
    assert expected["report"]["kl"] > 1e-5
    for each in ranks:
        assert_same_gradients(each["exact_kl"]["grads"], expected["grads"], 1e-4)
        assert each["exact_kl"]["report"] == pytest.approx(expected["report"], rel=1e-3, abs=1e-6)


def test_moments_in_bfloat16_over_sharded_weights_resume_bit_by_bit(ranks):
    for each in ranks:
        assert each["half_moments"] == (True, True)
        assert each["half_moments_types"] == {
            ("step", torch.float32),
            ("exp_avg", torch.bfloat16),
            ("exp_avg_sq", torch.bfloat16),
        }


def test_copies_with_moments_in_bfloat16_stay_equal_whatever_the_ranks_generators_are(ranks):
    """Weights and moments, bit for bit: rank against rank, and a resumed run against one that went on."""
    (straight, resumed), (other, other_resumed) = (rank["half_copies"] for rank in ranks)
    assert any(name.endswith("exp_avg_sq") and value.dtype == torch.bfloat16 for name, value in straight.items())
    for found in (resumed, other, other_resumed):
        assert found.keys() == straight.keys()
        assert [name for name, value in straight.items() if not torch.equal(found[name], value)] == []


def test_adapters_on_two_ranks_are_those_of_one_process(folder, ranks, first):
    table, images = make_batch(str(folder / "qwen2_5_vl"))
    learner = two_ranks.learner_of(folder / "qwen2_5_vl", lora=Lora(rank=2, alpha=8))
    for _ in range(2):
        expected = two_ranks.recorded(learner, split(table, 1, 6), images)
    assert first["lora"]["grads"].keys() == {n for n, p in learner.policy.named_parameters() if p.requires_grad}
    assert_same_gradients(first["lora"]["grads"], expected["grads"], tolerance=1e-4)
    adapters = join_shards([rank["lora_shards"] for rank in ranks])
    sent = sum(array.nbytes for rank in ranks for array in rank["lora_shards"].values())
    trained = [p for p in learner.policy.parameters() if p.requires_grad]
    scales = len(ranks) * len(trained) // 2  # a number for each pair, from every rank
    assert sent == 4 * (sum(p.numel() for p in trained) + scales)
    joined = merged_with(folder / "qwen2_5_vl", adapters)
    merged = learner.policy.model
    assert isinstance(merged, PeftModel)
    state = merged.merge_and_unload().state_dict()  # peft's own merge is the oracle
    assert joined.keys() == state.keys()
    for name, weight in state.items():
        torch.testing.assert_close(torch.from_numpy(joined[name]), weight, atol=2e-5, rtol=0, msg=name)


def merged_with(base, adapters):
    """Whole weights as an engine has them: of the checkpoint, with these adapters."""
    kept = KeptBase(Model(path=str(base), lora=Lora(rank=2)))
    tensors = {name: torch.from_numpy(array) for name, array in adapters.items()}
    weights = {name: weight.numpy() for name, weight in kept.merged(tensors, torch.float32, "cpu")}
    assert "lm_head.weight" not in weights  # tied, and frozen: an engine's own is right already
    return weights | {"lm_head.weight": weights["model.language_model.embed_tokens.weight"]}


def test_an_export_from_two_ranks_is_what_the_shards_join_to(folder, ranks):
    joined = merged_with(folder / "qwen2_5_vl", join_shards([rank["lora_shards"] for rank in ranks]))
    exported = AutoModelForImageTextToText.from_pretrained(folder / "lora-export").state_dict()
    stock = AutoModelForImageTextToText.from_pretrained(folder / "qwen2_5_vl").state_dict()
    assert exported.keys() == stock.keys()
    for name, weight in exported.items():
        torch.testing.assert_close(weight, torch.from_numpy(joined[name]), atol=1e-6, rtol=0, msg=name)
    changed = {name for name in stock if not torch.equal(stock[name], exported[name])}
    assert changed
    assert all(".layers." in name for name in changed)


def test_a_checkpoint_of_adapters_holds_nothing_else(folder):
    def size(name):
        return sum(file.stat().st_size for file in (folder / name / "state").iterdir())

    assert size("lora") < size("two") / 10


def test_a_resumed_run_is_bit_identical(first):
    assert first["resumed_two"] == first["straight"]
    for name, weight in first["straight_weights"].items():
        assert torch.equal(first["resumed_two_weights"][name], weight), name


def test_two_ranks_one_and_two_again(first):
    """The same run, its second update in one process. Dealt out anew, weights and moments are the same bits; gradients
    are added up in another order, which float32 rounds to about 1e-6 of the largest entry, and so are the reports.

    How far weights then part is up to AdamW, which divides by the size of each gradient, rounding and all: with this
    optimiser's large eps by 1e-7, and when tried with the usual one, 1e-8, at a rate of 1e-3, by 4e-7.
    """
    assert first["alone_extra"] == {"step": 1}
    assert first["resumed_one_extra"] == {"step": 2}
    for loaded, saved in (("alone_loaded", "saved"), ("resumed_one_loaded", "alone_saved")):
        assert first[loaded].keys() == first[saved].keys()
        assert any("exp_avg_sq" in name for name in first[saved])
        assert all(torch.equal(first[loaded][name], value) for name, value in first[saved].items())
    found = [first["alone"], *first["resumed_one"]]
    for report, expected in zip(found, first["straight"], strict=True):
        assert report == pytest.approx(expected, rel=1e-6, abs=1e-6)
    gradients = [first["alone_grads"], *first["resumed_one_grads"]]
    for grads, expected in zip(gradients, first["straight_grads"], strict=True):
        assert_same_gradients(grads, expected, 5e-6)
    for name, weight in first["straight_weights"].items():
        torch.testing.assert_close(first["resumed_one_weights"][name], weight, atol=1e-6, rtol=0, msg=name)


def test_a_critic_is_the_same_on_two_ranks(folder, ranks):
    """Values, gradient, the first update with its move of all values, and the numbers of a step."""
    table, images = make_batch(str(folder / "qwen2_5_vl"))
    alone = with_head(critic_of(folder / "qwen2_5_vl", value_clip=0.5))
    expected = alone.values(table, [images])
    found = [values for rank in ranks for values in rank["critic_values"]]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    grads, report = gradient_of(alone, split(lesson_of(table), 1, 3), images)
    fresh = critic_of(folder / "qwen2_5_vl")
    first = [fresh.update(split(lesson_of(table), 1, 3), [images]).numbers() for _ in range(2)]
    for rank in ranks:
        assert_same_gradients(rank["critic_grads"], grads)
        assert rank["critic_report"].numbers() == pytest.approx(report.numbers(), rel=1e-4, abs=1e-6)
        for a, b in zip(rank["critic_first"], first, strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
        assert rank["critic_resumed"] == rank["critic_straight"]
        for a, b in zip(rank["critic_bfloat16"], expected, strict=True):
            np.testing.assert_allclose(a, b, atol=0.3)
            trained = a[a != 0]
            rounded = torch.from_numpy(trained).bfloat16().float().numpy()
            assert (trained != rounded).any(), "the head computes in float32"


def test_a_critic_of_two_ranks_goes_on_in_one_process(folder, first):
    table, images = make_batch(str(folder / "qwen2_5_vl"))
    alone = critic_of(folder / "qwen2_5_vl")
    alone.load(str(folder / "critic"))
    found = alone.update(split(lesson_of(table), 1, 3), [images]).numbers()
    assert found == pytest.approx(first["critic_straight"], rel=1e-3, abs=1e-5)


def test_joining_needs_the_shards_of_one_update():
    with pytest.raises(ValueError, match=r"rank 1 and rank 0 differ in \['b'\]"):
        join_shards([{"a": np.ones(1)}, {"a": np.ones(1), "b": np.ones(1)}])


def test_uneven_shards_join_in_order():
    """Three rows over four ranks, as torch.chunk deals them: 1, 1, 1, 0."""
    whole = np.arange(6.0).reshape(3, 2)
    shards = [{"w": whole[:1]}, {"w": whole[1:2]}, {"w": whole[2:]}, {"w": whole[:0]}]
    assert np.array_equal(join_shards(shards)["w"], whole)


def test_adapters_merge_by_hand():
    merged = merge_adapters(
        {
            "w": np.zeros((2, 2)),
            "v": np.ones(1),
            "w:lora_A": np.array([[1.0, 2.0]]),
            "w:lora_B": np.array([[3.0], [4.0]]),
            "w:lora_scale": np.array(0.5),
        }
    )
    assert merged.keys() == {"w", "v"}
    assert merged["w"].tolist() == [[1.5, 3.0], [2.0, 4.0]]
