"""The network's log-probabilities of chosen ids: one forward pass, and no logits but those that are asked for.

    ModelInputs -> vision tower (each image once) -> language model -> hidden states at the targets -> head, in chunks
                                                                                  |
                                                        forbidden ids out, / temperature, log-softmax
                                                                                  |
                                                      and with a reference's states: the exact KL, chunk by chunk

The sampler's distribution is the same: it masks the same ids and divides by the same temperature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from algorithms.kl import full
from policy.network.collate import ModelInputs
from policy.network.load import LoadedPolicy, base_model

CHUNK_LOGITS = 1 << 26  # logits held at once: 256 MiB in float32
IMPOSSIBLE = -1e30  # instead of -inf: its probability is exactly 0 too, and 0 x it is 0 and not NaN


@dataclass(frozen=True, slots=True)
class ReferenceStates:
    """What a reference's distributions are made of: hidden states [N, H] of the targets, and its head [V, H]."""

    hidden: Tensor
    head: Tensor

    def part(self, start: int, count: int) -> ReferenceStates:
        """Those of `count` targets from `start` on."""
        return ReferenceStates(self.hidden[start : start + count], self.head)


class Backbone(nn.Module):
    """The network up to its last hidden states; a subclass adds what is read from them. Under FSDP it is the root.

    Everything that touches a parameter happens inside `forward`, so that sharded parameters are gathered for it.
    """

    def __init__(self, loaded: LoadedPolicy) -> None:
        """Wraps a network from policy.network.load.load."""
        super().__init__()
        self.model: Any = loaded.model
        self._by_starts = loaded.by_starts

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """The last hidden state from which each target is predicted, that of the id before it: [N, H]."""
        inner = base_model(self.model).model
        seen = inner.visual(inputs.patches, grid_thw=inputs.grids, return_dict=True)
        seen.pooler_output = [seen.pooler_output[inputs.feature_index]]
        if "deepstack_features" in seen:
            seen.deepstack_features = [[level[inputs.feature_index]] for level in seen.deepstack_features]
        sequences = {"cu_seq_lens_q": inputs.starts, "max_length_q": inputs.longest} if self._by_starts else {}
        hidden = inner(
            input_ids=inputs.input_ids,
            position_ids=inputs.position_ids,
            mm_encoder_outputs={"image": seen},
            use_cache=False,
            **sequences,
        ).last_hidden_state
        return hidden.flatten(0, 1)[inputs.target_positions]


class PolicyModule(Backbone):
    """A policy whose forward pass returns log-probabilities of the targets."""

    _forbidden: Tensor

    def __init__(self, loaded: LoadedPolicy, temperature: float) -> None:
        """Wraps the network.

        Args:
            loaded: from policy.network.load.load.
            temperature: that of the sampler, above 0. Supervised training uses 1.
        """
        super().__init__(loaded)
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: log-probabilities need a temperature above 0")
        self.temperature = temperature
        forbidden = torch.zeros(loaded.vocab_size, dtype=torch.bool)
        forbidden[list(loaded.forbidden_ids)] = True
        self.register_buffer("_forbidden", forbidden, persistent=False)

    def forward(
        self, inputs: ModelInputs, with_entropy: bool = False, reference: ReferenceStates | None = None
    ) -> tuple[Tensor, ...]:
        """Log-probability and entropy (nats) of each target, and with a reference the exact KL from it; [N] float32.

        Entropy and KL are of the distribution that the target was drawn from. The entropy carries a gradient if
        `with_entropy`; otherwise it is computed beside the graph, for the log. The KL carries one always.
        """
        return self.score(self.hidden_states(inputs), inputs.target_ids, with_entropy, reference)

    def score(
        self, hidden: Tensor, ids: Tensor, with_entropy: bool, reference: ReferenceStates | None = None
    ) -> tuple[Tensor, ...]:
        """The same from the hidden states [N, H] that predict `ids` [N]; holds CHUNK_LOGITS logits at most."""
        held = self._forbidden.numel() * (1 if reference is None else 2)
        n, chunk = len(ids), max(1, CHUNK_LOGITS // held)
        if n <= chunk:
            return self._score(hidden, ids, with_entropy, reference)
        parts: list[tuple[Tensor, ...]] = [
            # Recomputing a chunk in the backward pass is what keeps only one chunk's logits alive.
            checkpoint(  # type: ignore[misc]
                self._score,
                hidden[start : start + chunk],
                ids[start : start + chunk],
                with_entropy,
                None if reference is None else reference.part(start, chunk),
                use_reentrant=False,
            )
            for start in range(0, n, chunk)
        ]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def _score(
        self, hidden: Tensor, ids: Tensor, with_entropy: bool, reference: ReferenceStates | None
    ) -> tuple[Tensor, ...]:
        logits = self._allowed(base_model(self.model).lm_head(hidden))
        total = logits.logsumexp(-1)
        logprobs = logits.gather(-1, ids[:, None]).squeeze(-1) - total
        with torch.set_grad_enabled(with_entropy and torch.is_grad_enabled()):
            entropy = total - (torch.exp(logits - total[:, None]) * logits).sum(-1)
        if reference is None:
            return logprobs, entropy
        other = self._allowed(functional.linear(reference.hidden, reference.head)).log_softmax(-1)
        return logprobs, entropy, full(logits - total[:, None], other)

    def _allowed(self, logits: Tensor) -> Tensor:
        """The logits that the sampler draws from."""
        return (logits.float() / self.temperature).masked_fill(self._forbidden, IMPOSSIBLE)


def token_logprobs(policy: PolicyModule, inputs: ModelInputs) -> Tensor:
    """Log-probabilities [N] of the targets, without a graph."""
    policy.eval()
    with torch.no_grad():
        return policy(inputs)[0]
