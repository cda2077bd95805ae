"""Run as a script in a process of its own: plays two-turn, two-image episodes on the real engine and compares every
sampled token's log-probability with the learner's forward pass. Prints one JSON object.

    python parity.py ARCHITECTURE FOLDER
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.update(TORCHDYNAMO_DISABLE="1", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

import actors.player
from actors.engine import Completion, Request
from actors.player import Order, Player, Shard
from actors.vllm_engine import VllmEngine
from pointing.drawing import draw_ray
from pointing.episode import Ended, Episode, Observation
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import read_info, read_tokenizer
from policy.network.collate import Collator, ModelInputs, PixelCache, rows_of
from policy.network.forward import PolicyModule, token_logprobs
from policy.network.load import base_model, load
from policy.tiny.model import build_tiny
from schemas.config import Data, EngineOptions, Model, Rollout, Sampling
from schemas.task import NEGATIVE, Task

torch.set_num_threads(1)


class AlwaysDraws(Episode):
    """A random model writes no valid tool call: every first turn is answered with a drawn ray, another each time."""

    def step(self, reply: str) -> Observation | Ended:
        if self._ended or self._turns_left == 1:
            return Ended("answer")
        self._turns_left -= 1
        assert self._image is not None
        end = (len(reply) % self._image.width, (7 * len(reply)) % self._image.height)
        return Observation("The image with the ray drawn in red:", draw_ray(self._image, (3, 5), end))


def tasks(folder: Path, count: int) -> tuple[Task, ...]:
    """Noise images of odd sizes, so that they are resized onto the grid."""
    made = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 255, (150 + 31 * i, 200 + 17 * i, 3), dtype=np.uint8)
        file = folder / f"{i}.png"
        Image.fromarray(pixels).save(file)
        made.append(Task(task_id=f"t{i}", prompt="Where?", images=(str(file),), ground_truth=NEGATIVE))
    return tuple(made)


PIXELS = (96 * 96, 160 * 160)


def bound_smaller(folder: Path) -> None:
    """The checkpoint's processor would make every image smaller than the data's bounds allow."""
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["size"] = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    file.write_text(json.dumps(settings))


class Witness:
    """The engine, with a record of what the player did with it: "add ID", "step", "done ID", in order."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self.events: list[tuple[str, str]] = []

    def add(self, request: Request) -> None:
        self.events.append(("add", request.request_id))
        self._engine.add(request)

    def step(self) -> list[Completion]:
        self.events.append(("step", ""))
        finished = self._engine.step()
        self.events += [("done", completion.request_id) for completion in finished]
        return finished

    def turns(self) -> dict[str, int]:
        """How second turns began, while first turns of other samples went on.

        `waited`: second turns that were not in the engine at the iteration after their first turn's end. `overtook`:
        those that were in it while another sample's first turn was still being drawn.
        """
        added: dict[str, list[int]] = {}
        done: dict[str, list[int]] = {}
        steps = [at for at, (what, _) in enumerate(self.events) if what == "step"]
        for at, (what, name) in enumerate(self.events):
            if what != "step":
                (added if what == "add" else done).setdefault(name, []).append(at)
        second = {name: (done[name][0], at[1]) for name, at in added.items() if len(at) == 2}
        last_first_turn = max(ends[0] for ends in done.values())
        return {
            "second": len(second),
            "waited": sum(any(ended < step < began for step in steps) for ended, began in second.values()),
            "overtook": sum(began < last_first_turn for _, began in second.values()),
        }


class Bench:
    def __init__(self, architecture: str, folder: Path, engine: EngineOptions | None = None) -> None:
        actors.player.Episode = AlwaysDraws
        self.folder = folder
        self.path = str(build_tiny(folder / "a", architecture, seed=0, scale=1.5))
        bound_smaller(Path(self.path))
        self.other = str(build_tiny(folder / "b", architecture, seed=1, scale=1.5))
        self.info = read_info(self.path)
        chat = ChatFormat(read_tokenizer(self.path))
        rollout = Rollout(max_turns=2, max_tokens_per_turn=160, engine=engine or EngineOptions(max_model_len=768))
        data = Data(train_files="-", min_pixels=PIXELS[0], max_pixels=PIXELS[1], prompt_style="short")
        self.forbidden = chat.forbidden_ids(self.info.vocab_size)
        self.engine = VllmEngine(
            self.path, rollout.engine, forbidden_ids=self.forbidden, max_images=3, pixels=PIXELS, seed=0
        )
        self.player = Player(self.engine, self.info, chat, data, rollout)
        self.tasks = tasks(folder, 4)
        self.calls = 0

    def play(self, temperature: float, samples: int = 8, **truncation: float) -> Shard:
        self.calls += 1
        sampling = Sampling.model_validate({"temperature": temperature} | truncation)
        (shard,) = self.player.play(Order(f"{self.calls}", self.tasks, samples, sampling))
        return shard

    def learner(self, shard: Shard, path: str, temperature: float) -> tuple[PolicyModule, ModelInputs]:
        loaded = load(Model(path=path), trainable=False)
        collator = Collator(loaded.image_token_id, loaded.image_stats)
        inputs = collator.collate(rows_of(shard.rollout), PixelCache.from_tables([shard.images]))
        return PolicyModule(loaded, temperature), inputs

    def difference(self, shard: Shard, path: str, temperature: float) -> float:
        """Largest gap between the sampler's and the learner's log-probability over all sampled tokens."""
        logprobs = token_logprobs(*self.learner(shard, path, temperature)).numpy()
        return float(np.abs(logprobs - behaviour(shard)).max())

    def truncated(self, temperature: float, **truncation: float) -> dict[str, float]:
        """Under top_p or top_k the sampler's log-probability is the learner's less the log of the mass that was kept.

        The mass comes from the learner's whole distribution: the top_k likeliest ids, or the fewest that reach top_p.
        """
        shard = self.play(temperature, samples=2, **truncation)
        policy, inputs = self.learner(shard, self.path, temperature)
        with torch.no_grad():
            logits = base_model(policy.model).lm_head(policy.hidden_states(inputs)).double() / temperature
        logits[:, list(self.forbidden)] = -torch.inf
        likeliest = logits.softmax(-1).sort(-1, descending=True).values
        if "top_k" in truncation:
            kept = likeliest[:, : int(truncation["top_k"])].sum(-1)
        else:
            reached = likeliest.cumsum(-1) - likeliest < truncation["top_p"]  # before this id the share is not reached
            kept = (likeliest * reached).sum(-1)
        plain = token_logprobs(policy, inputs).numpy()
        gaps = np.abs(plain - np.log(kept.numpy()) - behaviour(shard))
        return {
            "share within 1e-4": float((gaps < 1e-4).mean()),  # an id on the edge of top_p may fall on either side
            "kept": float(kept.mean()),
            "ratio": float(np.exp(plain - behaviour(shard)).mean()),
        }

    def swap(self, path: str, version: int) -> None:
        state = load(Model(path=path), trainable=False).model.state_dict()
        weights = {name: tensor.numpy() for name, tensor in state.items()}
        self.engine.load_weights(weights, version)
        self.player.version = version

    def without(self, reset: str, path: str) -> float:
        """The gap after an update to `path` that skips one cache reset; the caches are full of the old weights."""
        core = self.engine._engine
        self.play(1.0)
        kept = getattr(core, reset)
        setattr(core, reset, lambda: True)
        try:
            self.swap(path, self.player.version + 1)
            return self.difference(self.play(1.0), path, 1.0)
        finally:
            setattr(core, reset, kept)
            core.reset_prefix_cache()
            core.reset_encoder_cache()

    def turns(self) -> dict[str, int]:
        """What the engine saw of the turns of one order; see Witness."""
        engine, witness = self.player._engine, Witness(self.engine)
        self.player._engine = witness  # type: ignore[assignment]
        try:
            self.play(1.0)
        finally:
            self.player._engine = engine
        return witness.turns()

    def expanded_otherwise(self) -> str:
        """What is said when the engine's prompts have another length than the learner's."""
        step = self.engine.step
        self.engine.step = lambda: [replace(done, prompt_tokens=done.prompt_tokens + 1) for done in step()]  # type: ignore[method-assign]
        try:
            self.play(1.0)
        except RuntimeError as error:
            return str(error)
        finally:
            self.engine.step = step  # type: ignore[method-assign]
            self.engine.abort_all()
        return ""


def behaviour(shard: Shard) -> np.ndarray:
    """The sampler's log-probabilities of all sampled tokens."""
    masks = np.concatenate([np.asarray(m) for m in shard.rollout.column("mask").to_pylist()])
    return np.concatenate([np.asarray(b) for b in shard.rollout.column("behaviour_logprobs").to_pylist()])[masks == 1]


def facts(table: pa.Table, forbidden: tuple[int, ...]) -> dict[str, int]:
    rows = table.to_pylist()
    sampled = [t for r in rows for t, m in zip(r["token_ids"], r["mask"], strict=True) if m]
    return {
        "trajectories": len(rows),
        "two_turns": sum(len(r["turn_lengths"]) == 2 for r in rows),
        "two_images": sum(len(r["image_digests"]) == 2 for r in rows),
        "sampled": len(sampled),
        "mask": sum(sum(r["mask"]) for r in rows),
        "turn_lengths": sum(sum(r["turn_lengths"]) for r in rows),
        "forbidden_sampled": sum(t in set(forbidden) for t in sampled),
        "versions": len({v for r in rows for v in r["turn_versions"]}),
    }


def main(architecture: str, folder: Path) -> dict[str, object]:
    bench = Bench(architecture, folder)
    first = bench.play(1.0)
    report: dict[str, object] = {"facts": facts(first.rollout, bench.forbidden)}
    report["temperature 1"] = bench.difference(first, bench.path, 1.0)
    report["temperature 0.9"] = bench.difference(bench.play(0.9), bench.path, 0.9)
    report["top_k 20"] = bench.truncated(0.9, top_k=20)
    report["top_p 0.8"] = bench.truncated(0.9, top_p=0.8)
    bench.swap(bench.other, 1)
    after = bench.play(1.0)
    report["after update"] = bench.difference(after, bench.other, 1.0)
    report["after update, old weights"] = bench.difference(after, bench.path, 1.0)
    report["after update, version"] = after.rollout.column("turn_versions")[0].as_py()[0]
    for number, name in enumerate(("reset_prefix_cache", "reset_encoder_cache")):
        report[f"without {name}"] = bench.without(name, (bench.path, bench.other)[number])
    report["turns"] = bench.turns()
    report["expanded otherwise"] = bench.expanded_otherwise()
    report["temporary files"] = [file.name for file in Path(tempfile.gettempdir()).iterdir() if file.is_file()]
    return report


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
