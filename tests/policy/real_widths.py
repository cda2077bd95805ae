"""A policy with the widths of Qwen2.5-VL-3B on two ranks: start, step, save, load; measured.

python -m tests.policy.real_widths RANK FOLDER     started once for each rank by test_real_widths.py; writes rankN.json

The folder holds `model`, written by `write_model`. Fewer layers and vision blocks than the real model has; each is of
the real size, and so is the vocabulary.
"""

from __future__ import annotations

import datetime
import gc
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForImageTextToText

from policy.learning.learner import PolicyLearner
from policy.network.load_sharded import StoredWeights
from policy.tiny.model import build_tiny
from schemas.config import Algorithm, Kl, Learner, Model, Optimiser
from tests.policy.batches import make_batch, split
from tests.policy.real_sizes import THREE, write_sizes

GIB = 1 << 30
LAYERS, VISION_BLOCKS = 4, 2  # of 36 and 32
# Moments of 2 bytes: with those of 4 the two ranks together need 5 GiB more.
LEARNER = Learner(optimiser=Optimiser(lr=1e-4, state_dtype="bfloat16"), micro_batch_rows=1)


def write_model(folder: Path) -> Path:
    """Random weights in bfloat16, as published models have them."""
    write_sizes(build_tiny(folder), THREE, layers=LAYERS, vision_blocks=VISION_BLOCKS)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


class Meter:
    """Seconds, and the most memory that this process held, of each part; in GiB."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        before, started = memory("VmRSS"), time.perf_counter()
        print(f"{name}: from {before:.1f} GiB", flush=True)
        yield
        seconds = time.perf_counter() - started
        self.parts[name] = {"seconds": seconds, "before_gib": before, "peak_gib": memory("VmHWM")}


def memory(line: str) -> float:
    """A line of this process's status, in GiB."""
    [found] = [text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(f"{line}:")]
    return int(found.split()[1]) * 1024 / GIB


def learner_of(folder: Path) -> PolicyLearner:
    model = Model(path=str(folder), dtype="bfloat16", freeze_vision=True, gradient_checkpointing=True)
    algorithm = Algorithm(kl=Kl(coefficient=0.0))
    return PolicyLearner(model, LEARNER, algorithm, total_steps=10, temperature=1.0, device="cpu")


def digests(learner: PolicyLearner) -> dict[str, str]:
    """Of this rank's part of every parameter."""
    return {name: digest(p.detach()) for name, p in learner.policy.named_parameters()}


def moments(learner: PolicyLearner) -> dict[str, str]:
    """Of this rank's part of the optimiser's state, by the parameter's name."""
    state = learner.optimiser.state
    return {
        f"{name}:{key}": digest(value)
        for name, p in learner.policy.named_parameters()
        for key, value in state.get(p, {}).items()
    }


def digest(tensor: torch.Tensor) -> str:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return hashlib.blake2b(local.contiguous().reshape(-1).view(torch.uint8).numpy(), digest_size=16).hexdigest()


def main(rank: int, folder: Path) -> None:
    """Both ranks take the same collectives."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=300))
    meter, read = Meter(), list[str]()
    rows = StoredWeights.rows

    def counted(self: StoredWeights, name: str, first: int, last: int) -> torch.Tensor:
        read.append(name)
        return rows(self, name, first, last)

    table, images = make_batch(str(folder / "model"), groups=1, samples=2)
    with mock.patch.object(StoredWeights, "rows", counted), meter.part("start"):
        learner = learner_of(folder / "model")
    parameters = list(learner.policy.parameters())
    out: dict[str, Any] = {
        "read": len(read),
        "weights": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
        "types": sorted({str(p.dtype) for p in parameters}),
        "frozen": [name for name, p in learner.policy.named_parameters() if not p.requires_grad],
        "before": digests(learner),
    }
    with meter.part("step"):
        out["report"] = learner.update(split(table, 2, 1), [images], 0.0).numbers()
    out["after"], out["moments"] = digests(learner), moments(learner)
    with meter.part("save"):
        learner.save(str(folder / "checkpoint"), {"step": 1})
    del learner, parameters
    gc.collect()
    resumed = learner_of(folder / "model")
    with meter.part("load"):
        out["extra"] = resumed.load(str(folder / "checkpoint"))
    out["loaded"], out["loaded_moments"] = digests(resumed), moments(resumed)
    out["parts"] = meter.parts
    (folder / f"rank{rank}.json").write_text(json.dumps(out))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
