"""Run as a script in a process of its own: adapters that the learner trains, in the engine of a rollout actor.
Prints one JSON object.

    python lora.py FOLDER
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(TORCHDYNAMO_DISABLE="1", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import numpy as np
import pyarrow as pa
import torch

from actors.player import Order
from actors.rollout import RolloutActor
from policy.learning.learner import PolicyLearner
from policy.tiny.model import build_tiny
from schemas.config import Algorithm, Data, EngineOptions, Kl, Learner, Lora, Model, Optimiser, Rollout, Sampling
from tests.actors.parity import PIXELS, tasks
from tests.policy.batches import make_batch

torch.set_num_threads(1)
Tables = tuple[pa.Table, pa.Table]  # images, rollout


class Bench:
    def __init__(self, folder: Path) -> None:
        self.model = Model(path=str(build_tiny(folder / "a", seed=0, scale=1.5)), lora=Lora(rank=4, alpha=8))
        rollout = Rollout(max_turns=1, max_tokens_per_turn=48, engine=EngineOptions(max_model_len=512))
        data = Data(train_files="-", min_pixels=PIXELS[0], max_pixels=PIXELS[1], prompt_style="short")
        self.tasks = tasks(folder, 3)
        # First: in the engine's process a learner would take the engine's process group for its ranks'.
        self.base, self.learner = self.new_learner(), self.new_learner()
        self.actor = RolloutActor(self.model, data, rollout, 0, "object_store", False)
        self.batch, self.images = make_batch(self.model.path)

    def new_learner(self) -> PolicyLearner:
        learner = Learner(optimiser=Optimiser(lr=2e-2, warmup_steps=0))
        algorithm = Algorithm(kl=Kl(coefficient=0.0))
        return PolicyLearner(self.model, learner, algorithm, total_steps=9, temperature=1.0)

    def play(self, version: int) -> Tables:
        """The same requests with the same seeds, whatever was played before."""
        order = Order("same", self.tasks, 4, Sampling(), seed=7)
        images, rollout = self.actor.generate(order, version)
        return images, rollout

    def train(self) -> dict[str, np.ndarray]:
        """An update, and what the learner sends after it."""
        self.learner.update(self.batch, [self.images], 0.0)
        return self.learner.local_shards()


def difference(tables: Tables, learner: PolicyLearner) -> float:
    """Largest gap between the sampler's and a learner's log-probability over all sampled tokens."""
    images, rollout = tables
    expected = np.concatenate(learner.logprobs(rollout, [images]))
    return float(np.abs(expected - sampled(tables)).max())


def sampled(tables: Tables) -> np.ndarray:
    """The sampler's log-probabilities, 0 where a token was not sampled."""
    rows: Any = tables[1].column("behaviour_logprobs").to_pylist()
    return np.concatenate([np.asarray(row, dtype=np.float32) for row in rows])


def refusal(call: Any) -> str:
    """What a call that must fail says."""
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(folder: Path) -> dict[str, Any]:
    bench = Bench(folder)
    start = bench.play(0)
    report: dict[str, Any] = {"before": difference(start, bench.base)}
    report["refused before"] = refusal(lambda: bench.play(1))
    first = bench.train()
    bench.actor.load_weights(1, first)
    after = bench.play(1)
    report["sent"] = sum(array.nbytes for array in first.values())
    report["adapters"] = sum(4 * p.numel() for p in bench.learner.policy.parameters() if p.requires_grad)
    report["whole"] = sum(4 * p.numel() for p in bench.learner.policy.parameters())
    report["after"] = difference(after, bench.learner)
    report["after, without adapters"] = difference(after, bench.base)
    report["refused after"] = refusal(lambda: bench.play(0))
    bench.actor.load_weights(2, bench.train())
    report["after another"] = difference(bench.play(2), bench.learner)
    stranger = {f"model.odd.weight{part}": np.ones((1, 1), np.float32) for part in (":lora_A", ":lora_B")}
    report["stranger"] = refusal(lambda: bench.actor.load_weights(3, stranger))
    report["after a stranger"] = difference(bench.play(2), bench.learner)
    bench.actor.load_weights(1, first)
    report["same bits again"] = bool(np.array_equal(sampled(bench.play(1)), sampled(after)))
    return report


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
