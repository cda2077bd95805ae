"""What the learner does on a GPU, section by section: one command of at most seven minutes on one H100.

    python -m benchmarks.gpu.learner --from build/gpu [--out FILE] [--limit 420] [--only SECTION ...] [--rehearse]

`--from` is what prepare.py made. Random weights of its config are made on the card and written as a checkpoint, which
PolicyLearner then loads as it loads any. The JSON is written anew after every section, so a run that is cut off still
tells; a section that fails leaves its error there and the next one goes on; one that would begin after the limit is
named as not run. `--rehearse` does all of it on a CPU with what `prepare.py --rehearse` made. Needs neither Ray nor
vLLM.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForImageTextToText

from policy.learning.learner import PolicyLearner
from policy.network import attention
from policy.network.collate import ragged
from policy.network.footprint import learner_memory, sizes_of
from policy.network.hardware import GPUS
from policy.network.operations import Work, operations, rates_of
from policy.state.sharding import named_weights
from schemas.config import TrainConfig
from schemas.config.file import load
from schemas.config.micro_batches import MicroBatches

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "grpo.yaml"
MIB = 1 << 20
Found = dict[str, Any]  # what a section measured, as it stands in the JSON


@dataclass(frozen=True, slots=True)
class Scale:
    """Tokens of a forward pass (the middle one is used where one is enough), how often what is timed is repeated, and
    the sequences (number, length) and window of patches that attention is tried on.
    """

    tokens: tuple[int, int, int]
    repeats: int
    sequences: tuple[int, int]
    window: int


FULL = Scale((4096, 8192, 16384), 2, (5, 3200), 64)
TINY = Scale((700, 1300, 2600), 1, (3, 40), 16)


class Bench:
    """The prepared files, the device, and the learner that several sections share."""

    def __init__(self, prepared: Path, work: Path, scale: Scale, device: str) -> None:
        self.scale, self.device, self.work = scale, device, work
        self.model = work / "model"
        shutil.copytree(prepared / "model", self.model)
        self.training = _read(prepared / "batch" / "training.arrow")
        self.images = [_read(prepared / "batch" / "images.arrow")]
        self._learner: PolicyLearner | None = None
        self._adapted = False

    def config(self, tokens: int, *, lora: bool = False) -> TrainConfig:
        """The shipped configuration of a 3B model, its learner on one GPU."""
        overrides = [
            f"model.path={self.model}",
            "data={train_files: '-', validation_files: '-'}",
            f"learner.micro_batch_tokens={tokens}",
            "learner.mini_batches=1",
            "resources.learner.count=1",
            "resources.weight_transfer=object_store",  # adapters travel no other way
            f"rollout.engine.max_model_len={min(self.scale.tokens)}",
            f"rollout.max_tokens_per_turn={min(self.scale.tokens) // 8}",
            *(["model.lora={}"] if lora else []),
        ]
        return load(TrainConfig, CONFIG, overrides).config

    def learner(self, *, lora: bool = False) -> PolicyLearner:
        """The one learner; another kind takes the place of the one before."""
        if self._learner is None or self._adapted is not lora:
            self.drop()
            config = self.config(self.scale.tokens[1], lora=lora)
            self._learner = PolicyLearner(
                config.model, config.learner, config.algorithm, total_steps=100, temperature=1.0, device=self.device
            )
            self._adapted = lora
        return self._learner

    def drop(self) -> None:
        """Frees the learner's memory."""
        self._learner = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each trajectory."""
        return [len(ids) for ids in ragged(self.training, "token_ids")]

    def planned(self, tokens: int) -> pa.Table:
        """The batch in forward passes of at most so many tokens."""
        place = np.zeros(len(self.lengths), dtype=np.int32)
        for number, rows in enumerate(self._passes(tokens)):
            place[rows] = number
        column = self.training.schema.get_field_index("micro_batch")
        return self.training.set_column(column, self.training.schema.field(column), pa.array(place, pa.int32()))

    def _passes(self, tokens: int) -> list[list[int]]:
        return MicroBatches(rows=None, tokens=tokens, packed=True).fill(self.lengths)

    def needed(self, tokens: int, *, lora: bool = False) -> Work:
        """Operations of one update of the batch, in such passes."""
        rates = rates_of(self.config(tokens, lora=lora).model)
        masks = ragged(self.training, "mask")
        digests = self.training.column("image_digests").to_pylist()
        grids = self.training.column("image_grids").to_pylist()
        work = Work()
        for rows in self._passes(tokens):
            shown = {d: tuple(g) for row in rows for d, g in zip(digests[row], grids[row], strict=True)}
            targets = int(sum(masks[row].sum() for row in rows))
            work += operations(rates, [self.lengths[row] for row in rows], targets, list(shown.values()))
        return work

    def seconds(self, call: Callable[[], object]) -> float:
        """Least seconds of some calls, each to its end on the device; one before them warms up, but in a rehearsal."""
        if self.scale is not TINY:
            call()
        return min(self.once(call) for _ in range(self.scale.repeats))

    def once(self, call: Callable[[], object]) -> float:
        """Seconds of one call, to its end on the device."""
        self.wait()
        started = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def peak(self, found: Found) -> Iterator[None]:
        """Notes the most memory of the device that was allocated; nothing on a CPU."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield
        if self.device == "cuda":
            found["peak_mib"] = torch.cuda.max_memory_allocated() / MIB


def weights(bench: Bench) -> Found:
    """Random weights made on the device, written, and loaded by the learner."""

    def write() -> None:
        torch.manual_seed(0)
        with torch.device(bench.device):
            model = AutoModelForImageTextToText.from_config(
                AutoConfig.from_pretrained(bench.model), dtype=torch.bfloat16
            )
        model.save_pretrained(bench.model)

    found: Found = {"write_s": bench.once(write)}
    bench.drop()
    with bench.peak(found):
        found["load_s"] = bench.once(bench.learner)
    return found | {"weights": sum(p.numel() for p in bench.learner().policy.parameters())}


def attentions(bench: Bench) -> Found:
    """Ways of attending, for the shapes of the language model and of a vision tower's windows: largest difference from
    float32, seconds forward, and seconds forward and backward.
    """
    count, length = bench.scale.sequences
    windows = count * length // bench.scale.window
    return {
        "text": _variants(bench, [length] * count, heads=16, groups=2, size=128, causal=True),
        "windows": _variants(bench, [bench.scale.window] * windows, heads=16, groups=16, size=80, causal=False),
    }


def _variants(bench: Bench, lengths: Sequence[int], *, heads: int, groups: int, size: int, causal: bool) -> Found:
    total = sum(lengths)
    generator = torch.Generator(bench.device).manual_seed(0)
    shapes = [(total, heads, size), (total, groups, size), (total, groups, size)]
    exact = [torch.randn(shape, generator=generator, device=bench.device) for shape in shapes]
    starts = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32, device=bench.device)
    given = {"starts": starts, "longest": max(lengths), "causal": causal, "scale": None}
    ways: dict[str, Callable[..., Tensor]] = {
        "by length": partial(attention.by_length, list(lengths), causal=causal, scale=None)
    }
    if bench.device == "cuda":
        ways["kernel"] = partial(attention.by_kernel, **given)
    expected = ways["by length"](*exact)
    found: Found = {}
    for name, way in ways.items():
        try:
            found[name] = _way(bench, way, exact, expected)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    return found


def _way(bench: Bench, way: Callable[..., Tensor], exact: Sequence[Tensor], expected: Tensor) -> Found:
    inputs = [tensor.to(torch.bfloat16).requires_grad_() for tensor in exact]

    def both() -> None:
        way(*inputs).sum().backward()

    with torch.no_grad():
        error = (way(*inputs).float() - expected).abs().max().item()
        forward = bench.seconds(lambda: way(*inputs))
    return {"largest_error": error, "forward_s": forward, "both_s": bench.seconds(both)}


def throughput(bench: Bench, tokens: int, *, lora: bool = False) -> Found:
    """An update in passes of so many tokens: tokens/s, MFU, peak memory beside what was estimated."""
    learner, table = bench.learner(lora=lora), bench.planned(tokens)
    found: Found = {}
    with bench.peak(found):
        seconds = bench.seconds(lambda: learner.update(table, bench.images, 0.0))
    found |= {"update_s": seconds, "tokens_per_s": sum(bench.lengths) / seconds, "passes": len(bench._passes(tokens))}
    config = bench.config(tokens, lora=lora)
    parts = learner_memory(sizes_of(config.model), config)
    found["estimated_mib"] = {name: size / MIB for name, size in parts.items()} | {"all": sum(parts.values()) / MIB}
    if peak := peak_operations(bench.device):
        work = bench.needed(tokens, lora=lora)
        found["mfu_text"] = work.text.needed / seconds / peak
        found["mfu_vision"] = work.vision.needed / seconds / peak
        found["mfu"] = work.both.needed / seconds / peak
    return found


def logprobs(bench: Bench) -> Found:
    """Log-probabilities of the whole batch, without gradients."""
    learner = bench.learner()
    found: Found = {}
    with bench.peak(found):
        seconds = bench.seconds(lambda: learner.logprobs(bench.training, bench.images))
    return found | {"seconds": seconds, "tokens_per_s": sum(bench.lengths) / seconds}


def gather(bench: Bench) -> Found:
    """Ways of weights out of the learner: whole in bfloat16 on the device, and this rank's to host memory."""
    policy = bench.learner().policy

    def whole() -> int:
        size = 0
        for weight in named_weights(policy).values():
            full = weight.full_tensor() if isinstance(weight, DTensor) else weight
            packed = full.detach().to(torch.bfloat16).contiguous()
            size += packed.nbytes
        return size

    shards = bench.learner().local_shards()
    return {
        "gather_cast_s": bench.seconds(whole),
        "gathered_mib": whole() / MIB,
        "local_shards_s": bench.seconds(bench.learner().local_shards),
        "local_shards_mib": sum(array.nbytes for array in shards.values()) / MIB,
    }


def checkpoint(bench: Bench) -> Found:
    """How long training stands still for a checkpoint, an update beside its writing, and the rest of the writing."""
    learner, table = bench.learner(), bench.planned(bench.scale.tokens[1])
    size = 12 * sum(p.numel() for p in learner.policy.parameters())
    if shutil.disk_usage(bench.work).free < 1.1 * size:
        return {"not_run": f"{size / MIB:.0f} MiB do not fit where TMPDIR is"}
    folder = str(bench.work / "checkpoint")
    alone = bench.once(lambda: learner.update(table, bench.images, 0.0))
    stall = bench.once(lambda: learner.begin_save(folder, {}))
    beside = bench.once(lambda: learner.update(table, bench.images, 0.0))
    rest = bench.once(learner.finish_save)
    shutil.rmtree(folder, ignore_errors=True)
    return {"stall_s": stall, "update_alone_s": alone, "update_beside_s": beside, "rest_s": rest, "mib": size / MIB}


def lora(bench: Bench) -> Found:
    """The same update with adapters alone, and the bytes that travel."""
    found = throughput(bench, bench.scale.tokens[1], lora=True)
    shards = bench.learner(lora=True).local_shards()
    return found | {"sent_mib": sum(array.nbytes for array in shards.values()) / MIB}


def sections(scale: Scale) -> Mapping[str, Callable[[Bench], Found]]:
    """By name, in order: what tells most comes first."""
    least, usual, most = scale.tokens
    return {
        "weights": weights,
        "attention": attentions,
        f"update_{usual}": partial(throughput, tokens=usual),
        f"update_{most}": partial(throughput, tokens=most),
        f"update_{least}": partial(throughput, tokens=least),
        "logprobs": logprobs,
        "gather": gather,
        "checkpoint": checkpoint,
        "lora": lora,
    }


def peak_operations(device: str) -> float | None:
    """Operations a second of the GPU at its peak, by its name; None on a CPU and of an unknown kind."""
    if device != "cuda":
        return None
    words = torch.cuda.get_device_name().replace("-", " ").split()
    kinds = [kind for kind in GPUS if set(kind.split("-")) <= set(words)]
    return GPUS[max(kinds, key=len)].operations if kinds else None


def machine(device: str) -> Found:
    """What it ran on."""
    name = torch.cuda.get_device_name() if device == "cuda" else "a CPU: a rehearsal, no figure of a GPU"
    packages = {package: version(package) for package in ("torch", "transformers", "peft")}
    return {"device": name, "cuda": torch.version.cuda if device == "cuda" else None, **packages}


def run(bench: Bench, out: Path, chosen: Sequence[str], limit_s: float) -> bool:
    """All chosen sections; whether each ran and none failed."""
    started = time.perf_counter()
    done: Found = {"machine": machine(bench.device), "sections": {}}
    sound = True
    for name, section in sections(bench.scale).items():
        if chosen and name not in chosen and name != "weights":
            continue
        begun = time.perf_counter()
        if begun - started > limit_s:
            found: Found = {"not_run": f"would have begun after {limit_s:.0f} s"}
        else:
            try:
                found = section(bench)
            except Exception as error:
                traceback.print_exc()
                found = {"error": f"{type(error).__name__}: {error}"}
                if isinstance(error, torch.OutOfMemoryError):
                    bench.drop()
        sound = sound and not found.keys() & {"error", "not_run"}
        done["sections"][name] = found | {"section_s": time.perf_counter() - begun}
        _write(out, done | {"seconds": time.perf_counter() - started})
        print(name, json.dumps(done["sections"][name]), flush=True)
    return sound


def _write(out: Path, done: Found) -> None:
    """Whole or not at all: a run may be cut off at any moment."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    os.replace(part, out)


def _read(file: Path) -> pa.Table:
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_file(source).read_all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="prepared", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu_learner.json")
    parser.add_argument("--limit", type=float, default=420, help="seconds after which no section begins")
    parser.add_argument("--only", nargs="*", default=[], metavar="SECTION")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, tiny")
    given = parser.parse_args()
    scale = TINY if given.rehearse else FULL
    if unknown := set(given.only) - sections(scale).keys():
        parser.error(f"no section {sorted(unknown)}; there are {', '.join(sections(scale))}")
    if not given.rehearse and not torch.cuda.is_available():
        parser.error("no GPU is visible here; --rehearse runs on a CPU, with what prepare.py --rehearse made")
    if not (given.prepared / "batch" / "training.arrow").is_file():
        parser.error(f"{given.prepared} holds no batch; make it with python -m benchmarks.gpu.prepare")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        device = "cpu" if given.rehearse else "cuda"
        backend = "gloo" if given.rehearse else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=dist.FileStore(str(work / "store"), 1), rank=0, world_size=1)
        try:
            sound = run(Bench(given.prepared, work, scale, device), given.out, given.only, given.limit)
        finally:
            dist.destroy_process_group()
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
