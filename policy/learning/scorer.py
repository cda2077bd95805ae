"""One number for each sampled id of whole tables, without gradients: log-probabilities, or a critic's values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from policy.network.collate import Collator, ModelInputs, PixelCache, Row, rows_of
from policy.network.forward import PolicyModule, token_logprobs
from policy.network.load import load
from policy.state.sharding import most_over_ranks
from schemas.config import Learner, Model
from schemas.config.micro_batches import MicroBatches

Floats = npt.NDArray[np.float32]

# Forward passes in place of rows that a rank does not have: sharded ranks must take part in each other's.
IDLE = (Row("idle", np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int8), (), ()),)


class TokenReader:
    """A network that is only read."""

    def __init__(
        self, read: Callable[[ModelInputs], Tensor], collator: Collator, micro_batches: MicroBatches, device: str
    ) -> None:
        """`read` gives one number for each target of a forward pass, [N] without a graph."""
        self._read = read
        self._collator = collator
        self._micro_batches = micro_batches
        self._device = device

    def per_token(self, table: pa.Table, images: Sequence[pa.Table]) -> list[Floats]:
        """The number of each trained id, one array per row aligned with `token_ids`, 0 where the mask is 0.

        Args:
            table: ROLLOUT or TRAINING rows. Where the network is sharded, each rank may give rows of its own, and all
                ranks must call.
            images: IMAGES tables that hold every digest of the rows.
        """
        rows = rows_of(table)
        cache = PixelCache.from_tables(images)
        parts = self._micro_batches.fill([len(row.ids) for row in rows])
        [n_parts] = most_over_ranks([len(parts)], self._device)
        found: list[Floats] = [np.zeros(len(row.ids), dtype=np.float32) for row in rows]
        for part in parts:
            for row, values in zip(part, self.flat([rows[row] for row in part], cache), strict=True):
                found[row][rows[row].mask.astype(bool)] = values
        for _ in range(n_parts - len(parts)):
            self.flat(IDLE, cache)
        return found

    def flat(self, rows: Sequence[Row], cache: PixelCache) -> list[Floats]:
        """The numbers of the trained ids alone, one array per row, from one forward pass."""
        inputs = self._collator.collate(rows, cache).to(self._device)
        values = self._read(inputs).cpu().numpy()
        return np.split(values, np.cumsum([row.n_targets for row in rows])[:-1])


class Scorer(TokenReader):
    """Log-probabilities under a policy: the reference's, or those before an update."""

    def __init__(self, policy: PolicyModule, collator: Collator, micro_batches: MicroBatches, device: str) -> None:
        super().__init__(lambda inputs: token_logprobs(policy, inputs), collator, micro_batches, device)

    @classmethod
    def frozen(cls, model: Model, learner: Learner, temperature: float, device: str) -> Scorer:
        """Loads a model that no one trains, in its own dtype, for this process alone."""
        loaded = load(model, device=device, trainable=False)
        collator = Collator(loaded.image_token_id, loaded.image_stats, learner.layout)
        return cls(PolicyModule(loaded, temperature).to(device), collator, learner.micro_batches, device)

    def logprobs(self, table: pa.Table, images: Sequence[pa.Table]) -> list[Floats]:
        """Log-probability of each trained id; see per_token."""
        return self.per_token(table, images)
