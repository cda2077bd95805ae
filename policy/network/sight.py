"""Whether images reach the log-probabilities: two images of noise, one short sequence, before anything is learned.

    ids with a placeholder for 2 x 2 visual tokens --+-- noise A --> log-probabilities --.
                                                     '-- noise B --> log-probabilities --+--> not all equal, or refused

keywords.py looks at names; this looks at numbers, whatever the reason may be that an image is not seen.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch
import transformers
from PIL import Image
from torch.distributed.fsdp import FSDPModule

from policy.conversation.seen_image import Seen, encode
from policy.network.collate import Collator, ModelInputs, PixelCache, Row
from policy.network.forward import PolicyModule, token_logprobs
from policy.network.keywords import SUPPORTED
from policy.network.load import LoadedPolicy
from schemas.config.file import SettingError

SIDE = 2  # visual tokens along each side of the image
TARGETS = 4  # ids after it


def refuse_blind(policy: PolicyModule, loaded: LoadedPolicy, path: str, device: str) -> None:
    """Raises SettingError where another image gives the same log-probabilities, bit for bit.

    Changes nothing: weights, random generators and the mode stay as they are. Where the policy is sharded, every rank
    must call it.

    Args:
        policy: placed, with its weights.
        loaded: what it was made of.
        path: the checkpoint, for the message.
        device: where it computes.
    """
    noise = np.random.default_rng(0).integers(0, 256, (2, *(SIDE * loaded.family.grid,) * 2, 3), dtype=np.uint8)
    first, second = (encode(Image.fromarray(pixels), loaded.family) for pixels in noise)
    training = policy.training
    devices = [torch.cuda.current_device()] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
        one, other = (token_logprobs(policy, _inputs(seen, loaded, device)) for seen in (first, second))
    policy.train(training)
    if isinstance(policy, FSDPModule):
        policy.reshard()  # no backward pass will free what was gathered
    if torch.equal(one, other):
        raise SettingError(
            "model.path",
            path,
            f"{type(loaded.model).__name__} under transformers {transformers.__version__} gives the same "
            f"log-probabilities whatever the image is",
            f"install a supported version of transformers ({SUPPORTED}), or use a checkpoint whose vision works",
        )


def _inputs(seen: Seen, loaded: LoadedPolicy, device: str) -> ModelInputs:
    """One id, the image, and TARGETS ids to predict: the first that the sampler may draw."""
    forbidden = set(loaded.forbidden_ids)
    text = list(islice((i for i in range(loaded.vocab_size) if i not in forbidden), TARGETS + 1))
    ids = np.array([text[0], *[loaded.image_token_id] * SIDE**2, *text[1:]])
    mask = np.arange(len(ids)) > SIDE**2
    row = Row("sight", ids, mask.astype(np.int8), (seen.ref.digest,), (seen.ref.grid,))
    collator = Collator(loaded.image_token_id, loaded.image_stats)
    return collator.collate([row], PixelCache({seen.ref.digest: seen.png})).to(device)
