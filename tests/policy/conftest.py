"""Small networks are fastest on one thread, and spinning threads of several processes cost a multiple of it."""

import pytest
import torch

from policy.tiny.model import build_tiny
from tests.policy.batches import make_batch

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def data(tiny):
    table, images = make_batch(tiny, groups=1)
    return table, [images]
