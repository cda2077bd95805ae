"""What episodes cost on top of the engine: the player against a bare engine loop that replays the same requests.

    python benchmarks/rollout.py [--model models/tiny] [--tasks 32] [--samples 8] [--rounds 5]

The player opens images, draws rays, encodes PNGs, tokenises observations and keeps ledgers. The bare loop has every
prompt and image ready, samples the same number of tokens for each request, and submits a second turn when its first is
done. Both run in this process on one engine of one thread, in turns; the ratio of medians is the result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", TORCHDYNAMO_DISABLE="1", HF_HUB_OFFLINE="1")

import torch

from actors.engine import Completion, Request
from actors.player import Order, Player
from actors.vllm_engine import VllmEngine
from orchestrator.run_folder.folder import versions
from pointing.dataset import DatasetOptions, read
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import read_info, read_tokenizer
from schemas.config import TrainConfig
from schemas.config.file import load

ROOT = Path(__file__).resolve().parent.parent


class Recorder:
    """The engine, noting every request and how many tokens it got."""

    def __init__(self, engine: VllmEngine) -> None:
        self.engine = engine
        self.requests: dict[str, list[Request]] = {}
        self.lengths: dict[str, list[int]] = {}

    def add(self, request: Request) -> None:
        self.requests.setdefault(request.request_id, []).append(request)
        self.engine.add(request)

    def step(self) -> list[Completion]:
        finished = self.engine.step()
        for completion in finished:
            self.lengths.setdefault(completion.request_id, []).append(len(completion.token_ids))
        return finished

    def busy(self) -> bool:
        return self.engine.busy()


def forget(engine: VllmEngine) -> None:
    """Both sides start from empty caches."""
    engine._engine.reset_prefix_cache()
    engine._engine.reset_encoder_cache()
    engine._engine.reset_mm_cache()  # of what the processor made of each image


def replay(engine: VllmEngine, recorded: Recorder) -> float:
    """Seconds of a bare loop over the recorded requests."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    core: Any = engine._engine

    def submit(name: str, turn: int) -> None:
        request, length = recorded.requests[name][turn], recorded.lengths[name][turn]
        prompt = {
            "prompt_token_ids": list(request.prompt_ids),
            "multi_modal_data": {"image": list(request.images)},
            "multi_modal_uuids": {"image": list(request.digests)},
        }
        parameters = SamplingParams(
            temperature=request.sampling.temperature,
            max_tokens=length,
            min_tokens=length,
            ignore_eos=True,
            detokenize=False,
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        core.add_request(f"{name}#{turn}", prompt, parameters)

    started = time.perf_counter()
    for name in recorded.requests:
        submit(name, 0)
    while core.has_unfinished_requests():
        for output in core.step():
            name, turn = output.request_id.rsplit("#", 1)
            if output.finished and int(turn) + 1 < len(recorded.requests[name]):
                submit(name, int(turn) + 1)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="models/tiny")
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "rollout.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = load(TrainConfig, ROOT / "configs" / "quickstart.yaml", [f"model.path={given.model}"]).config
    tasks = read(DatasetOptions(files=(str(config.data.train_files),))).tasks
    info = read_info(given.model)
    chat = ChatFormat(read_tokenizer(given.model), config.data.system_prompt)
    forbidden = chat.forbidden_ids(info.vocab_size)
    engine = VllmEngine(
        given.model, config.rollout.engine, forbidden_ids=forbidden, max_images=4, pixels=config.data.pixels, seed=1
    )
    ours, bare, tokens = [], [], []
    for number in range(given.rounds + 1):
        recorder = Recorder(engine)
        player = Player(recorder, info, chat, config.data, config.rollout)  # type: ignore[arg-type]
        part = tasks[number * given.tasks : (number + 1) * given.tasks]
        order = Order(str(number), part, given.samples, config.rollout.sampling)
        forget(engine)
        started = time.perf_counter()
        list(player.play(order))
        ours.append(time.perf_counter() - started)
        forget(engine)
        bare.append(replay(engine, recorder))
        tokens.append(sum(sum(turns) for turns in recorder.lengths.values()))
    ours, bare, tokens = ours[1:], bare[1:], tokens[1:]  # the first round warms up
    result = {
        "player_tokens_per_s": statistics.median(t / s for t, s in zip(tokens, ours, strict=True)),
        "bare_tokens_per_s": statistics.median(t / s for t, s in zip(tokens, bare, strict=True)),
        "ratio": statistics.median(b / o for b, o in zip(bare, ours, strict=True)),
        "rounds": given.rounds,
        "trajectories": given.tasks * given.samples,
        "model": given.model,
        "versions": versions(),
    }
    print(json.dumps(result, indent=2))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
