"""What two gloo ranks do, written to a folder for the tests to compare with one process.

python -m tests.policy.two_ranks RANK FOLDER     started once for each rank by test_two_ranks.py
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from policy.learning.learner import PolicyLearner
from policy.network import load_sharded as weights_module
from policy.network.load import base_model
from policy.network.load_sharded import StoredWeights
from policy.state.sharding import blocks
from schemas.config import Algorithm, Kl, Learner, Lora, Loss, Model, Optimiser, Sharding
from tests.policy.batches import ARCHITECTURES, make_batch, replace, split
from tests.policy.learning.critic_case import critic_of, gradient_of, lesson_of, with_head

KL = 0.05
ALGORITHM = Algorithm(loss=Loss(entropy_coefficient=0.01, denominator="sequence"), kl=Kl(coefficient=KL))
STARTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ARCHITECTURES},
    "adapters": ("qwen2_5_vl", {"lora": Lora(rank=3), "dtype": "bfloat16"}),
    "frozen_vision": ("qwen2_5_vl", {"freeze_vision": True}),
    "untied": ("untied", {}),
}
BUDGET = 150  # tokens of a forward pass
EXACT = Algorithm(kl=Kl(coefficient=KL, estimator="full"))
SMOOTH = Optimiser(lr=1e-2, eps=1e-2, max_grad_norm=0.1)  # a large eps: rounding of tiny gradients stays tiny


def learner_of(
    folder: Path,
    optimiser: Optimiser = SMOOTH,
    learner: dict[str, Any] | None = None,
    algorithm: Algorithm = ALGORITHM,
    **model: Any,
) -> PolicyLearner:
    """The learner that every scenario uses."""
    return PolicyLearner(
        Model(path=str(folder), **model),
        Learner(optimiser=optimiser, **({"micro_batch_rows": 2} | (learner or {}))),
        algorithm,
        total_steps=10,
        temperature=0.9,
        seed=3,
        device="cpu",
    )


def recorded(learner: PolicyLearner, table: pa.Table, images: pa.Table) -> dict[str, Any]:
    """The gradient of the first optimiser step, before it is taken, and the report."""
    grads: dict[str, torch.Tensor] = {}
    step = learner.optimiser.step

    def record() -> None:
        for name, p in learner.policy.named_parameters():
            if p.grad is not None:
                grads[name] = whole(p.grad).clone()
        step()

    learner.optimiser.step = record  # type: ignore[method-assign]
    report = learner.update(table, [images], KL)
    learner.optimiser.step = step  # type: ignore[method-assign]
    return {"grads": grads, "report": report.numbers()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, gathered where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def weights(learner: PolicyLearner) -> dict[str, torch.Tensor]:
    """Every parameter, whole."""
    return {name: whole(p.detach()).clone() for name, p in learner.policy.named_parameters()}


def starts(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """What every kind of model starts with, from blocks of few rows; and how many of them this rank read itself."""
    read: list[str] = []
    rows = StoredWeights.rows

    def counted(self: StoredWeights, name: str, first: int, last: int) -> torch.Tensor:
        read.append(name)
        return rows(self, name, first, last)

    with mock.patch.object(weights_module, "BLOCK_BYTES", 20_000), mock.patch.object(StoredWeights, "rows", counted):
        for name, (architecture, options) in STARTS.items():
            learner = learner_of(folder / architecture, **options)
            network = learner.policy.model
            out[f"start_{name}"] = {
                "weights": weights(learner),
                "buffers": {n: b.clone() for n, b in learner.policy.named_buffers()},
                "trained": {n for n, p in learner.policy.named_parameters() if p.requires_grad},
                "tied": base_model(network).lm_head.weight is base_model(network).get_input_embeddings().weight,
                "generation": base_model(network).generation_config.to_dict(),
            }
    out["start_read"] = len(read)


def families(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """One update of every family, and how its parameters are sharded."""
    for architecture in ARCHITECTURES:
        table, images = make_batch(str(folder / architecture))
        learner = learner_of(folder / architecture)
        sharded = [isinstance(p, DTensor) for block in blocks(learner.policy) for p in block.parameters()]
        rows = {n: (p.to_local().shape[0], p.shape[0]) for n, p in learner.policy.named_parameters()}
        out[architecture] = recorded(learner, split(table, 2, 2), images)
        out[architecture] |= {"sharded": sharded, "rows": rows, "shards": learner.local_shards()}


def uneven(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """Rank 0 has images and three micro-batches, rank 1 text alone in one; each is given its own rows only."""
    table, images, seats = mixed(folder)
    table = replace(table, rank=[r for r, _ in seats], micro_batch=[m for _, m in seats])
    mine = table.filter([r == rank for r, _ in seats])
    learner = learner_of(folder)
    out["uneven"] = recorded(learner, mine, images)
    out["uneven_logprobs"] = learner.logprobs(mine, [images])


def mixed(folder: Path) -> tuple[pa.Table, pa.Table, list[tuple[int, int]]]:
    """Rows with images and rows without, and the (rank, micro-batch) of each."""
    with_images, images = make_batch(str(folder), groups=1)
    text, _ = make_batch(str(folder), groups=1, samples=1, images=False, seed=1)
    table = pa.concat_tables([with_images, replace(text, trajectory_id=["text"])]).combine_chunks()
    table = replace(table, denominator=[30.0] * table.num_rows)
    return table, images, [(0, 0), (0, 1), (0, 2), (1, 0)]


def budgets(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """Forward passes filled with tokens, padded and packed: more of them on rank 0, and images on rank 0 alone."""
    for layout in ("padded", "packed"):
        options = {"micro_batch_tokens": BUDGET, "layout": layout}
        learner = learner_of(folder, learner=options)
        table, images = budgeted(folder, learner_options=options)
        mine = table.filter([r == rank for r in table["rank"].to_pylist()])
        logprobs = learner.logprobs(mine, [images])
        out[f"budget_{layout}"] = recorded(learner, mine, images) | {"logprobs": logprobs}


def budgeted(folder: Path, learner_options: dict[str, Any]) -> tuple[pa.Table, pa.Table]:
    """Four rows with images on rank 0 and two without on rank 1, in micro-batches of up to BUDGET tokens."""
    with_images, images = make_batch(str(folder), groups=2, samples=2)
    text, _ = make_batch(str(folder), groups=1, samples=2, images=False, seed=1)
    text = replace(text, trajectory_id=["text/0", "text/1"])
    table = replace(
        pa.concat_tables([with_images, text]).combine_chunks(), denominator=[6.0] * 6, rank=[0] * 4 + [1] * 2
    )
    lengths = [len(ids) for ids in table["token_ids"].to_pylist()]
    micro = [0] * 6
    for rows in ([0, 1, 2, 3], [4, 5]):
        parts = Learner(**learner_options).micro_batches.fill([lengths[row] for row in rows])
        for number, part in enumerate(parts):
            for place in part:
                micro[rows[place]] = number
    assert max(micro[:4]) > max(micro[4:]), "rank 0 must have more forward passes"
    return replace(table, micro_batch=micro), images


def layouts_of_ranks(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """A whole copy on each rank; shards, gradients and optimiser kept on the CPU; both end as plain sharding does."""
    table, images = make_batch(str(folder))
    for name, sharding in (("copies", Sharding(ranks=1)), ("offload", Sharding(cpu_offload=True))):
        learner = learner_of(folder, learner={"sharding": sharding})
        out[name] = recorded(learner, split(table, 2, 2), images)
        out[name] |= {"weights": weights(learner), "shards": learner.local_shards()}
        learner.save(str(folder.parent / name), {})
        learner.load(str(folder.parent / name))
        out[name]["loaded"] = weights(learner)


def poisoned(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """A loss that is not finite on rank 1 alone."""
    table, images = make_batch(str(folder))
    table = split(table, 2, 3)
    bad = [
        [float("nan") if x else 0.0 for x in row] if r == 1 else row
        for row, r in zip(table["advantages"].to_pylist(), table["rank"].to_pylist(), strict=True)
    ]
    learner = learner_of(folder)
    before = weights(learner)
    report = learner.update(replace(table, advantages=bad), [images], KL)
    after = weights(learner)
    out["poisoned"] = (report.skipped, all(torch.equal(after[name], before[name]) for name in before))


def mixed_precision(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """bfloat16 computation over float32 shards, with and without adapters."""
    table, images = make_batch(str(folder))
    for name, options in (("bfloat16", {}), ("bfloat16_lora", {"lora": Lora(rank=2)})):
        learner = learner_of(folder, dtype="bfloat16", **options)
        out[name] = recorded(learner, split(table, 2, 3), images)
        out[f"{name}_types"] = {p.dtype for p in learner.policy.parameters() if p.requires_grad}


def adapters(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """Two updates of adapters; then their shards, a checkpoint and an export."""
    table, images = make_batch(str(folder))
    learner = learner_of(folder, lora=Lora(rank=2, alpha=8))
    for _ in range(2):
        out["lora"] = recorded(learner, split(table, 2, 3), images)
    out["lora_shards"] = learner.local_shards()
    learner.save(str(folder.parent / "lora"), {})
    learner.export(str(folder.parent / "lora-export"))


def exact_kl(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """Two updates with the KL over the vocabulary, the reference sharded too; ranks with unequal micro-batches."""
    table, images, seats = mixed(folder)
    table = replace(table, rank=[r for r, _ in seats], micro_batch=[m for _, m in seats])
    learner = learner_of(folder, algorithm=EXACT)
    learner.update(table, [images], KL)
    out["exact_kl"] = recorded(learner, table, images)


def half_moments(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """Moments in bfloat16 over sharded weights: a checkpoint after the first update, and what follows either way."""
    table, images = make_batch(str(folder))
    table = split(table, 2, 2)
    optimiser = SMOOTH.model_copy(update={"state_dtype": "bfloat16"})
    learner, resumed = (learner_of(folder, optimiser=optimiser) for _ in range(2))
    learner.update(table, [images], KL)
    learner.save(str(folder / "half-moments"), {})
    report = learner.update(table, [images], KL)
    resumed.load(str(folder / "half-moments"))
    same = resumed.update(table, [images], KL) == report
    out["half_moments"] = (same, all(torch.equal(a, weights(resumed)[name]) for name, a in weights(learner).items()))
    out["half_moments_types"] = {
        (name, value.dtype) for state in resumed.optimiser.state.values() for name, value in state.items()
    }


def half_moments_in_copies(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """A whole copy on each rank, whose own generators differ; a checkpoint after the first of three updates."""
    table, images = make_batch(str(folder))
    table = split(table, 2, 2)
    options = {
        "optimiser": SMOOTH.model_copy(update={"state_dtype": "bfloat16"}),
        "learner": {"sharding": Sharding(ranks=1)},
    }
    learner, resumed = (learner_of(folder, **options) for _ in range(2))
    learner.update(table, [images], KL)
    learner.save(str(folder / "half-copies"), {})
    resumed.load(str(folder / "half-copies"))
    for number, each in enumerate((learner, resumed)):
        torch.manual_seed(10 * number + rank)
        for _ in range(2):
            each.update(table, [images], KL)
    out["half_copies"] = [own_shards(each) for each in (learner, resumed)]


def own_shards(learner: PolicyLearner) -> dict[str, torch.Tensor]:
    """What this very rank holds of every weight and of its moments."""
    found: dict[str, torch.Tensor] = {}
    for name, p in learner.policy.named_parameters():
        state = learner.optimiser.state.get(p, {})
        for key, value in {"weight": p.detach(), **state}.items():
            found[f"{name}/{key}"] = (value.to_local() if isinstance(value, DTensor) else value).clone()
    return found


def critic(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """A critic's values of rows dealt to the ranks, its gradient, its first update, and a checkpoint."""
    table, images = make_batch(str(folder))
    lesson = split(lesson_of(table), 2, 2)
    learner = with_head(critic_of(folder, value_clip=0.5))
    n = table.num_rows
    first, last = (n * r // 2 for r in (rank, rank + 1))
    out["critic_values"] = learner.values(table.slice(first, last - first), [images])
    out["critic_grads"], out["critic_report"] = gradient_of(learner, lesson, images)
    fresh = critic_of(folder)
    out["critic_first"] = [fresh.update(lesson, [images]).numbers() for _ in range(2)]
    fresh.save(str(folder.parent / "critic"), {})
    out["critic_straight"] = fresh.update(lesson, [images]).numbers()
    resumed = critic_of(folder)
    resumed.load(str(folder.parent / "critic"))
    out["critic_resumed"] = resumed.update(lesson, [images]).numbers()
    exact = with_head(critic_of(folder, model={"dtype": "bfloat16"}))
    out["critic_bfloat16"] = exact.values(table, [images])


def state(learner: PolicyLearner) -> dict[str, torch.Tensor]:
    """Every weight with its moments, whole."""
    found = weights(learner)
    for name, p in learner.policy.named_parameters():
        found |= {f"{name}/{key}": whole(value).clone() for key, value in learner.optimiser.state.get(p, {}).items()}
    return found


def before_the_cut(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """Four updates without interruption; a checkpoint after the first."""
    table, images = make_batch(str(folder))
    learner = learner_of(folder)
    learner.update(split(table, 2, 2), [images], KL)
    learner.save(str(folder.parent / "two"), {"step": 1})
    out["saved"] = state(learner)
    steps = [recorded(learner, split(table, 2, 2), images) for _ in range(3)]
    out["straight"] = [step["report"] for step in steps]
    out["straight_grads"] = [step["grads"] for step in steps]
    out["straight_weights"] = weights(learner)


def alone(folder: Path, out: dict[str, Any]) -> None:
    """One process continues the two ranks' checkpoint, and leaves one of its own after another update."""
    table, images = make_batch(str(folder))
    learner = learner_of(folder)
    out["alone_extra"] = learner.load(str(folder.parent / "two"))
    out["alone_loaded"] = state(learner)
    step = recorded(learner, split(table, 1, 2), images)
    out["alone"], out["alone_grads"] = step["report"], step["grads"]
    learner.save(str(folder.parent / "one"), {"step": 2})
    out["alone_saved"] = state(learner)


def after_the_cut(folder: Path, rank: int, out: dict[str, Any]) -> None:
    """Two ranks again: from their own checkpoint, and from the single process's."""
    table, images = make_batch(str(folder))
    for name, updates in (("two", 3), ("one", 2)):
        learner = learner_of(folder)
        out[f"resumed_{name}_extra"] = learner.load(str(folder.parent / name))
        out[f"resumed_{name}_loaded"] = state(learner)
        steps = [recorded(learner, split(table, 2, 2), images) for _ in range(updates)]
        out[f"resumed_{name}"] = [step["report"] for step in steps]
        out[f"resumed_{name}_grads"] = [step["grads"] for step in steps]
        out[f"resumed_{name}_weights"] = weights(learner)


def main(rank: int, folder: Path) -> None:
    """Runs every scenario in order; both ranks take the same collectives."""
    torch.set_num_threads(1)
    out: dict[str, Any] = {}
    tiny = folder / "qwen2_5_vl"

    def join(name: str) -> None:
        store = dist.FileStore(str(folder / f"store-{name}"), 2)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=120))

    join("first")
    starts(folder, rank, out)
    families(folder, rank, out)
    scenarios = (uneven, budgets, layouts_of_ranks, poisoned, mixed_precision, adapters, critic, exact_kl)
    for scenario in (*scenarios, half_moments, half_moments_in_copies, before_the_cut):
        scenario(tiny, rank, out)
    dist.destroy_process_group()
    if rank == 0:
        alone(tiny, out)
    join("second")
    after_the_cut(tiny, rank, out)
    dist.destroy_process_group()
    torch.save(out, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
