"""The rollout actor: one vLLM engine, playing episodes and streaming finished shards.

driver --Order--> generate --images table, rollout table, shard by shard-->
learner ranks --local shards--> load_weights
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from actors.player import Order, Player
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import model_tokenizer, read_info
from policy.state.determinism import be_deterministic
from policy.state.sharding import join_shards
from schemas.config import Data, Model, Rollout, Transfer


class RolloutActor:
    """A plain class, made remote where it is spawned."""

    def __init__(
        self, model: Model, data: Data, rollout: Rollout, seed: int, transfer: Transfer, deterministic: bool
    ) -> None:
        if deterministic:
            be_deterministic()
        from actors.vllm_engine import VllmEngine

        info = read_info(model.path)
        chat = ChatFormat(model_tokenizer(model), data.system_prompt)
        self._engine = VllmEngine(
            model.path,
            rollout.engine,
            forbidden_ids=chat.forbidden_ids(info.vocab_size),
            max_images=data.max_images + rollout.max_turns - 1,
            pixels=data.pixels,
            seed=seed,
            trust_remote_code=model.trust_remote_code,
            transfer=transfer,
            adapted=None if model.lora is None else model,
        )
        self._player = Player(self._engine, info, chat, data, rollout)

    def ready(self) -> int:
        """The policy version that the engine holds; 0 is the checkpoint it was started from."""
        return self._player.version

    def generate(self, order: Order, version: int) -> Iterator[pa.Table]:
        """Plays the order with weights of exactly `version`; yields the images of a shard, then its rollout table.

        Images come first: the driver waits for the rollout table alone, and when it has one, its images are there too.
        Raises RuntimeError when the engine holds another version.
        """
        if self._player.version != version:
            raise RuntimeError(f"asked to sample with version {version}, the engine holds {self._player.version}")
        try:
            for shard in self._player.play(order):
                yield shard.images
                yield shard.rollout
        finally:
            if self._engine.busy():
                self._engine.abort_all()

    def load_weights(self, version: int, *shards: Mapping[str, np.ndarray]) -> int:
        """Takes every learner rank's local shards, in order of rank: the new model, or its new adapters."""
        self._engine.load_weights(join_shards(shards), version)
        self._player.version = version
        return version

    def init_transfer(self, init_info: dict[str, Any]) -> None:
        """Joins the learner's NCCL group; see actors/nccl.py."""
        self._engine.init_transfer(init_info)

    def transfer(self, call: str, arguments: dict[str, Any] | None = None) -> None:
        """One call of the transfer protocol, driven by the learner's rank 0."""
        self._engine.transfer(call, arguments)

    def took_weights(self, version: int) -> int:
        """After a transfer over NCCL: the engine holds `version`."""
        self._engine.took(version)
        self._player.version = version
        return version
