"""The network's log-probabilities of chosen ids: one forward pass, and no logits but those that are asked for.

    ModelInputs -> vision tower (each image once) -> language model -> hidden states at the targets -> head, in chunks
                                                                                  |
                                                        forbidden ids out, / temperature, log-softmax

The sampler's distribution is the same: it masks the same ids and divides by the same temperature.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from policy.collate import ModelInputs
from policy.model import LoadedPolicy, base_model
from policy.vision import repeat_frames

CHUNK_LOGITS = 1 << 26  # logits held at once: 256 MiB in float32
IMPOSSIBLE = -1e30  # instead of -inf: its probability is exactly 0 too, and 0 x it is 0 and not NaN


class Backbone(nn.Module):
    """The network up to its last hidden states; a subclass adds what is read from them. Under FSDP it is the root.

    Everything that touches a parameter happens inside `forward`, so that sharded parameters are gathered for it.
    """

    def __init__(self, loaded: LoadedPolicy) -> None:
        """Wraps a network from policy.model.load."""
        super().__init__()
        self.model: Any = loaded.model
        self._frames = 1 if loaded.fast_vision else loaded.image_stats.temporal_patch

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """The last hidden state from which each target is predicted, that of the id before it: [N, H]."""
        inner = base_model(self.model).model
        seen = inner.visual(repeat_frames(inputs.patches, self._frames), grid_thw=inputs.grids, return_dict=True)
        seen.pooler_output = [seen.pooler_output[inputs.feature_index]]
        if "deepstack_features" in seen:
            seen.deepstack_features = [[level[inputs.feature_index]] for level in seen.deepstack_features]
        hidden = inner(
            input_ids=inputs.input_ids,
            position_ids=inputs.position_ids,
            mm_encoder_outputs={"image": seen},
            use_cache=False,
        ).last_hidden_state
        return hidden.flatten(0, 1)[inputs.target_positions]


class PolicyModule(Backbone):
    """A policy whose forward pass returns log-probabilities of the targets."""

    _forbidden: Tensor

    def __init__(self, loaded: LoadedPolicy, temperature: float) -> None:
        """Wraps the network.

        Args:
            loaded: from policy.model.load.
            temperature: that of the sampler, above 0. Supervised training uses 1.
        """
        super().__init__(loaded)
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: log-probabilities need a temperature above 0")
        self.temperature = temperature
        forbidden = torch.zeros(loaded.vocab_size, dtype=torch.bool)
        forbidden[list(loaded.forbidden_ids)] = True
        self.register_buffer("_forbidden", forbidden, persistent=False)

    def forward(self, inputs: ModelInputs, with_entropy: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (nats) of each target, [N] float32 both.

        The entropy is of the distribution that the target was drawn from. It carries a gradient if `with_entropy`;
        otherwise it is computed beside the graph, for the log.
        """
        return self.score(self.hidden_states(inputs), inputs.target_ids, with_entropy)

    def score(self, hidden: Tensor, ids: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
        """The same from the hidden states [N, H] that predict `ids` [N]; holds CHUNK_LOGITS logits at most."""
        chunk = max(1, CHUNK_LOGITS // self._forbidden.numel())
        if len(ids) <= chunk:
            return self._score(hidden, ids, with_entropy)
        parts: list[tuple[Tensor, Tensor]] = [
            # Recomputing a chunk in the backward pass is what keeps only one chunk's logits alive.
            checkpoint(self._score, hidden_part, ids_part, with_entropy, use_reentrant=False)  # type: ignore[misc]
            for hidden_part, ids_part in zip(hidden.split(chunk), ids.split(chunk), strict=True)
        ]
        return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropy for _, entropy in parts])

    def _score(self, hidden: Tensor, ids: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
        logits = base_model(self.model).lm_head(hidden).float() / self.temperature
        logits = logits.masked_fill(self._forbidden, IMPOSSIBLE)
        total = logits.logsumexp(-1)
        logprobs = logits.gather(-1, ids[:, None]).squeeze(-1) - total
        with torch.set_grad_enabled(with_entropy and torch.is_grad_enabled()):
            entropy = total - (torch.exp(logits - total[:, None]) * logits).sum(-1)
        return logprobs, entropy


def token_logprobs(policy: PolicyModule, inputs: ModelInputs) -> Tensor:
    """Log-probabilities [N] of the targets, without a graph."""
    policy.eval()
    with torch.no_grad():
        return policy(inputs)[0]
