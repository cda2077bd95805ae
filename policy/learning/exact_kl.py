"""The reference's whole distribution at every trained token, for the exact KL: kept where the policy learns.

    inputs -> frozen network, sharded like the policy -> hidden states of the targets [N, H] --.
    the frozen head [V, H], whole on every rank ------------------------------------------------+--> PolicyModule, which
                                                          makes both distributions of one chunk of targets at a time

Distributions are never sent and never kept: at most forward.CHUNK_LOGITS logits exist at once. The price is a second
network on the learner and its forward pass in every micro-batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from policy.network.collate import ModelInputs
from policy.network.forward import Backbone, ReferenceStates
from policy.network.load import base_model, load
from policy.state.sharding import place
from schemas.config import Model, Sharding


class ReferenceBackbone(Backbone):
    """The reference up to its head."""

    @torch.no_grad()
    def forward(self, inputs: ModelInputs) -> Tensor:
        """Hidden states of the targets, [N, H]."""
        return self.hidden_states(inputs)


class ExactReference:
    """A frozen copy of the model that training started from. Every rank builds it, and calls it together."""

    def __init__(self, model: Model, sharding: Sharding, device: str) -> None:
        """Loads `model` without adapters, in its own dtype, sharded as the policy is in a process group."""
        plain = model.model_copy(update={"lora": None})
        loaded = load(plain, device=device, trainable=False, sharded=dist.is_initialized())
        self._backbone = ReferenceBackbone(loaded).eval()
        place(self._backbone, plain, sharding, device, seed=0)
        head = base_model(loaded.model).lm_head.weight.detach()
        self._head = (head.full_tensor() if isinstance(head, DTensor) else head).to(device)

    def __call__(self, inputs: ModelInputs) -> ReferenceStates:
        """What PolicyModule needs of the reference for these inputs."""
        hidden = self._backbone(inputs)
        if isinstance(self._backbone, FSDPModule):
            self._backbone.reshard()  # no backward pass will free what was gathered
        return ReferenceStates(hidden, self._head)
