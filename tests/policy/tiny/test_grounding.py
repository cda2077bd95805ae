from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor

from policy.tiny.cell_labels import OBJECT, PALM, SIZES, TARGET, TIP, CellHead, cell_loss, label
from policy.tiny.grounding import ground
from policy.tiny.model import build_tiny
from tests.policy.tiny.labelled import EMPTY, POSITIVE


def test_labels_by_hand() -> None:
    found = label([EMPTY, POSITIVE], cells=4)
    present = found.present.view(2, 16, 4)
    assert present[0].nonzero().tolist() == [[2, OBJECT], [12, OBJECT]]
    assert sorted(map(tuple, present[1].nonzero().tolist())) == [
        (2, TARGET),
        (2, OBJECT),
        (5, TIP),
        (9, PALM),
        (12, OBJECT),
    ]
    assert found.hand_at.tolist() == [16 + 9]
    assert found.finger_at.tolist() == [16 + 5]
    assert found.object_at.tolist() == [2, 12, 16 + 2, 16 + 12]
    torch.testing.assert_close(found.hand, torch.tensor([[0.0, -0.5, 1.0, 0.5]]))
    torch.testing.assert_close(found.finger, torch.tensor([[0.8, 0.6, 0.9, 0.3]]))
    torch.testing.assert_close(found.object[0], torch.tensor([0.1, 0.1, 0.9, 0.9]))
    assert found.colour.tolist() == [2, 0, 2, 0]
    assert found.shape.tolist() == [3, 0, 3, 0]


def test_the_loss_is_nothing_when_all_is_known_and_grows_with_each_mistake() -> None:
    truth = label([EMPTY, POSITIVE], cells=4)
    said = {key: torch.zeros(32, size) for key, size in SIZES.items()}
    said["present"] = truth.present * 60 - 30
    said["hand"][truth.hand_at] = truth.hand
    said["finger"][truth.finger_at] = truth.finger
    said["object"][truth.object_at] = truth.object
    said["colour"][truth.object_at, truth.colour] = 30.0
    said["shape"][truth.object_at, truth.shape] = 30.0
    assert cell_loss(said, truth, 2).item() < 1e-6
    for key in SIZES:
        wrong = {k: -v if k == key else v for k, v in said.items()}
        assert cell_loss(wrong, truth, 2).item() > 0.1, key


def test_a_batch_of_negatives_has_a_finite_loss() -> None:
    head = CellHead(8)
    assert torch.isfinite(cell_loss(head(torch.randn(16, 8)), label([EMPTY], cells=4), 1))


@pytest.mark.parametrize("architecture", ["qwen2_5_vl", "qwen3_vl"])
def test_grounding_trains_the_vision_tower_alone(architecture: str, tmp_path: Path) -> None:
    start = build_tiny(tmp_path / "start", architecture)
    losses = ground(start, tmp_path / "grounded", samples=16 * 24, batch_rows=16)
    assert len(losses) == 24
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "grounded"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("visual" in name for name in changed)
    assert AutoProcessor.from_pretrained(tmp_path / "grounded").tokenizer.chat_template
    again = ground(start, tmp_path / "again", samples=16 * 2, batch_rows=16)
    assert again[0] == losses[0]  # the seed fixes scenes and head


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_rows must be even"):
        ground(tmp_path, tmp_path, samples=30, batch_rows=15)
