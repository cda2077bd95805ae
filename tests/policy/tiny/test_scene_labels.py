"""Labels of the whole scene at every token, by hand."""

from __future__ import annotations

import torch

from pointing.scenes import Scene
from policy.tiny.scene_labels import PLACES, SIZES, UNIT, SceneHead, label_scenes, scene_loss, ways
from tests.policy.tiny.labelled import EMPTY, POSITIVE


def test_labels_by_hand() -> None:
    found = label_scenes([EMPTY, POSITIVE], cells=4)
    assert found.positive.tolist() == [False, True]
    hand, finger, target = found.places[0]
    torch.testing.assert_close(hand, torch.tensor([1.0, 1.5, 2.0, 2.5]))
    torch.testing.assert_close(finger, torch.tensor([1.8, 1.6, 1.9, 1.3]))
    torch.testing.assert_close(target, torch.tensor([2.1, 0.1, 2.9, 0.9]))
    assert found.colour.tolist() == [2]  # of the target alone
    assert found.shape.tolist() == [3]


def test_the_way_from_each_cell_by_hand() -> None:
    places = label_scenes([POSITIVE], cells=4).places
    found = ways(places, 4) * UNIT
    assert found.shape == (1, 16, PLACES, 4)
    # cell 6 is line 1, column 2: its centre is (2.5, 1.5)
    torch.testing.assert_close(found[0, 6, 0], torch.tensor([-1.5, 0.0, -0.5, 1.0]))
    torch.testing.assert_close(found[0, 6, 2], torch.tensor([-0.4, -1.4, 0.4, -0.6]))


def known(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """What a head that knows everything says of every cell."""
    truth = label_scenes(scenes, cells=4)
    said = {key: torch.zeros(len(scenes), 16, size) for key, size in SIZES.items()}
    said["negative"] = torch.where(truth.positive, -30.0, 30.0)[:, None, None].expand(-1, 16, 1)
    said["places"][truth.positive] = ways(truth.places, 4).flatten(2)
    said["colour"][truth.positive] = 30.0 * torch.eye(SIZES["colour"])[truth.colour][:, None]
    said["shape"][truth.positive] = 30.0 * torch.eye(SIZES["shape"])[truth.shape][:, None]
    return {key: value.flatten(0, 1) for key, value in said.items()}


def test_the_loss_is_nothing_when_all_is_known_and_grows_with_each_mistake() -> None:
    scenes = [EMPTY, POSITIVE]
    truth, said = label_scenes(scenes, cells=4), known(scenes)
    assert scene_loss(said, truth, 4).item() < 1e-6
    for key in SIZES:
        wrong = {k: -v if k == key else v for k, v in said.items()}
        assert scene_loss(wrong, truth, 4).item() > 0.1, key


def test_a_batch_of_negatives_has_a_finite_loss() -> None:
    assert torch.isfinite(scene_loss(SceneHead(8)(torch.randn(16, 8)), label_scenes([EMPTY], cells=4), 4))
