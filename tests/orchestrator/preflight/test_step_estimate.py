"""The estimate as a check prints it: shipped configurations follow it, a bad split is told of, a page says the same."""

import re
from pathlib import Path

import pytest

from orchestrator.preflight.step_cost import estimate
from orchestrator.preflight.step_estimate import advice, layout_of, question_of, step_table
from orchestrator.roles.placement import Node
from policy.network.footprint import Sizes, sizes_of
from policy.network.hardware import GPUS
from policy.network.operations import Rates, rates_of
from policy.tiny.model import build_tiny
from schemas.config import TrainConfig
from schemas.config.file import load as load_config
from tests.orchestrator.preflight.anchors import Prediction, easyr1, prime_rl
from tests.orchestrator.preflight.test_real_configs import FOLDER, ON_GPUS, named
from tests.policy.real_sizes import SEVEN, THREE, write_sizes

PAGE = Path(__file__).resolve().parents[3] / "docs" / "performance.md"
EIGHT_H100 = [Node("node", 96, (1.0,) * 8, gpu_kind="H100")]
GRID = 28


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {size: write_sizes(build_tiny(tmp_path_factory.mktemp(size)), size) for size in (THREE, SEVEN)}


def loaded(file: Path, real: dict[str, Path], *overrides: str) -> tuple[TrainConfig, Rates, Sizes]:
    config = load_config(TrainConfig, file, [f"model.path={real[named(file)]}", *overrides]).config
    return config, rates_of(config.model), sizes_of(config.model)


@pytest.mark.parametrize("file", ON_GPUS, ids=lambda f: f.name)
def test_shipped_configurations_follow_the_estimate(file: Path, real: dict[str, Path]) -> None:
    config, rates, sizes = loaded(file, real)
    question = question_of(config, rates, sizes, GPUS["H100"], GRID)
    assert advice(config, question, estimate(question, layout_of(config))) == ()
    slower = question_of(config, rates, sizes, GPUS["A100"], GRID)
    assert "would take" not in "".join(advice(config, slower, estimate(slower, layout_of(config))))


def test_a_bad_split_is_told_of_with_a_better_one_that_can_be_set(real: dict[str, Path]) -> None:
    file = FOLDER / "grpo_7b_8gpu.yaml"
    bad = ["resources.rollout.count=5", "resources.learner.count=2", "resources.reference.count=1", "model.lora={}"]
    config, _, sizes = loaded(file, real, *bad, "resources.weight_transfer=object_store")
    lines = step_table(config, sizes, EIGHT_H100, GRID).splitlines()
    assert re.match(r"step +\d+ s, estimated: rollout \d+ \+ \d+ beyond it \(reference [\d.]+, scoring 0.1\)", lines[0])
    assert "for 1024 trajectories of 3504 tokens, 512 of them sampled (assumed)" in lines[1]
    assert re.search(r"5 GPU\(s\) of the engines wait [89]\d% of it, 2 GPU\(s\) of the learner [3-5]\d%", lines[2])
    told = re.fullmatch(r"warning +a step would take (\d+) s, (\d+)% less, with (.*)", lines[3])
    assert told
    changed, rates, _ = loaded(file, real, *bad, "resources.weight_transfer=object_store", *told[3].split())
    question = question_of(changed, rates, sizes, GPUS["H100"], GRID)
    cost = estimate(question, layout_of(changed))
    assert f"{cost.step:.0f}" == told[1]
    assert advice(changed, question, cost) == ()


def test_what_cannot_be_estimated_says_why(real: dict[str, Path]) -> None:
    file = FOLDER / "grpo.yaml"
    config, _, sizes = loaded(file, real)
    assert step_table(config, sizes, [], GRID) == (
        "step         not estimated: the kind of GPU is not known; set resources.gpu_kind"
    )
    kind, _, _ = loaded(file, real, "resources.gpu_kind=H100")
    assert step_table(kind, sizes, [], GRID) == step_table(config, sizes, EIGHT_H100, GRID)
    offloaded, _, _ = loaded(file, real, "learner.sharding.cpu_offload=true")
    assert "not estimated: learner.sharding.cpu_offload" in step_table(offloaded, sizes, EIGHT_H100, GRID)
    exact, _, _ = loaded(file, real, "rollout.engine.dtype=float32")
    assert "not estimated: rates are known in bfloat16 alone" in step_table(exact, sizes, EIGHT_H100, GRID)
    small = load_config(TrainConfig, FOLDER / "quickstart.yaml", []).config
    assert step_table(small, sizes, [], GRID) == ""  # on CPUs


def test_the_page_shows_what_is_printed(real: dict[str, Path]) -> None:
    file, counts = FOLDER / "grpo_7b_8gpu.yaml", ["resources.rollout.count=3", "resources.reference.count=1"]
    config, _, sizes = loaded(file, real, *counts)
    assert step_table(config, sizes, EIGHT_H100, GRID) in PAGE.read_text()


def test_the_page_has_the_predictions(tmp_path: Path) -> None:
    """docs/performance.md beside what others published."""
    rows = {cells[0]: cells for line in PAGE.read_text().splitlines() if (cells := line.strip("| ").split(" | "))}
    predicted = {
        "EasyR1, 8 H100, 7B": easyr1(tmp_path / "7b", SEVEN),
        "EasyR1, 8 H100, 3B": easyr1(tmp_path / "3b", THREE),
        "prime-rl, one H100, 4B with LoRA, the trainer alone": prime_rl(tmp_path / "4b"),
    }
    for name, found in predicted.items():
        assert rows[name][2] == _cell(found), f"{name}: {_cell(found)}"
        assert rows[name][3] == "not run on a GPU"


def _cell(found: Prediction) -> str:
    return f"{found.tokens:,.0f} tokens/s a GPU, {found.mfu:.0f} %, {found.seconds:.0f} s"
