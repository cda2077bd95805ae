"""Every shipped configuration for GPUs, up to where one is needed: planned, fitted, built, a batch collated."""

from pathlib import Path

import pytest
import torch

from orchestrator.preflight.gpu_memory import gpu_memory_problems, memory_table
from orchestrator.preflight.role_memory import memory_plan
from orchestrator.roles.placement import Node, plan_table, role_plans, unplaced
from policy.network.collate import Collator, PixelCache, rows_of
from policy.network.footprint import Sizes, sizes_of
from policy.network.load import load
from policy.tiny.model import build_tiny
from schemas.config import Model, TrainConfig
from schemas.config.file import load as load_config
from tests.policy.batches import make_batch
from tests.policy.real_sizes import SEVEN, THREE, write_sizes

FOLDER = Path(__file__).resolve().parents[3] / "configs"
ON_GPUS = [
    file
    for file in sorted(FOLDER.glob("*.yaml"))
    if "gpus: " in file.read_text(encoding="utf-8") and "rollout:" in file.read_text(encoding="utf-8")
]
EIGHT = Node("node", 96, (1.0,) * 8)
CLUSTERS = {"1gpu": [Node("node", 16, (1.0,))], "2x8gpu": [EIGHT, EIGHT]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {size: write_sizes(build_tiny(tmp_path_factory.mktemp(size)), size) for size in (THREE, SEVEN)}


def named(file: Path) -> str:
    """3B unless the name says otherwise."""
    return SEVEN if "7b" in file.name else THREE


def test_there_are_configurations_for_one_gpu_a_node_and_two() -> None:
    names = {file.name for file in ON_GPUS}
    assert {"grpo.yaml", "grpo_3b_lora_1gpu.yaml", "grpo_7b_8gpu.yaml", "grpo_7b_lora_8gpu.yaml"} <= names
    assert {"grpo_7b_2x8gpu.yaml", "ppo_3b_8gpu.yaml", "published.yaml"} <= names


@pytest.mark.parametrize("file", ON_GPUS, ids=lambda f: f.name)
def test_its_roles_and_its_memory_fit(file: Path, real: dict[str, Path]) -> None:
    """On the machines it is written for, with the model that it is written for, and with little to spare in GPUs."""
    config = load_config(TrainConfig, file, [f"model.path={real[named(file)]}"]).config
    plans = role_plans(config)
    nodes = next((nodes for name, nodes in CLUSTERS.items() if name in file.name), [EIGHT])
    assert unplaced(plans, nodes) is None, plan_table(plans)
    assert sum(plan.count * plan.gpus for plan in plans) == pytest.approx(sum(len(node.gpus) for node in nodes))
    sizes: Sizes = sizes_of(config.model)
    memory = memory_plan(config, sizes)
    assert config.resources.gpu_memory_gib is not None
    assert gpu_memory_problems(config, memory) == ()
    assert [plan.role for plan in memory if plan.gpus] == [plan.role for plan in plans if plan.gpus], memory_table(
        memory
    )
    assert (config.critic is None) == (config.algorithm.advantage != "gae")
    assert (sizes.trained < sizes.weights) == (config.model.lora is not None)


@pytest.mark.parametrize("file", ON_GPUS, ids=lambda f: f.name)
def test_its_model_is_built_and_a_batch_collated(file: Path, tiny: str) -> None:
    config = load_config(TrainConfig, file, [f"model.path={tiny}"]).config
    loaded = load(config.model, sharded=True)
    assert all(p.is_meta for p in loaded.model.parameters())
    frozen = load(Model(path=tiny, dtype=config.model.dtype), trainable=False).model
    assert {p.dtype for p in frozen.parameters()} == {torch.bfloat16}  # the reference
    table, images = make_batch(tiny, groups=1)
    rows = rows_of(table)
    collator = Collator(loaded.image_token_id, loaded.image_stats, config.learner.layout)
    inputs = collator.collate(rows, PixelCache.from_tables([images]))
    tokens = sum(len(row.ids) for row in rows)
    assert inputs.input_ids.shape == (1, tokens)  # all of them are packed
    assert inputs.position_ids.shape == (4, 1, tokens)
    assert inputs.n_targets == sum(row.n_targets for row in rows)
    [micro_batch] = config.learner.micro_batches.fill([len(row.ids) for row in rows])
    assert sorted(micro_batch) == [0, 1, 2]
