"""Everything that learner.py and rollout.py need and a GPU machine without a network lacks, made on a CPU.

python -m benchmarks.gpu.prepare [--out build/gpu] [--installed FREEZE.txt] [--download] [--rehearse]

model/      Qwen2.5-VL-3B's config with this project's small tokenizer and processor; no weights (learner.py makes
            them on the card)
tasks/      fixed pictures of a megapixel
batch/      training.arrow, images.arrow: trajectories of about 3,200 tokens, played by actors/player.py on an engine
            that says fixed turns, and joined by orchestrator/batch/assemble.py
wheels.txt  packages, as NAME==VERSION, that the learner needs and `--installed` (what `pip freeze` says there, or
            bare names) does not hold; with --download their wheels lie in wheels/
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pyarrow as pa
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from PIL import Image

from actors.engine import Completion, Request
from actors.player import Order, Player
from algorithms.adaptive import AdaptiveState
from orchestrator.batch.assemble import StageTables, StepMethod, assemble
from pointing import tool
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import read_info, read_tokenizer
from policy.learning.policy_batch import write_batch
from policy.tiny.model import build_tiny
from schemas import batch
from schemas.config import Algorithm, BatchPlan, Data, Rollout, Sampling
from schemas.config.micro_batches import MicroBatches
from schemas.scoring import SCORE_TERMS
from schemas.task import NEGATIVE, Task
from tests.policy.real_sizes import THREE, write_sizes

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60 << 20  # bytes of all that is prepared
GROUPS, SAMPLES, REHEARSED_SAMPLES = 4, 4, 1
SIDES, REHEARSED = (980, 896), (84, 56)  # width and height of a picture, on the grid of 28 pixels
TURNS, REHEARSED_TURNS = (200, 200), (24, 12)  # sampled tokens of the two turns
# What policy/ and schemas/ import. torch is the card's own, and so is what it brings.
DIRECT = (
    "transformers", "peft", "accelerate", "pydantic", "pyarrow", "pillow", "numpy", "pyyaml", "jinja2", "safetensors",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")


class ScriptedEngine:
    """Says the same two turns to every request: a call of the tool, then an answer, each filled up with words."""

    def __init__(self, folder: str, lengths: tuple[int, int], side: int) -> None:
        """`lengths` of the turns in tokens, `side` of the picture's shorter side in pixels."""
        info, tokenizer = read_info(folder), read_tokenizer(folder)
        self._grid = info.family.grid
        self._lengths = lengths
        self._random = np.random.default_rng(0)
        self._words = tokenizer.encode("the hand is pointing at a red box near it", add_special_tokens=False)
        call = tool.written(f"{side // 4}, {side // 4}", f"{side - 4}, {side - 4}")
        self._ends = [tokenizer.encode(text, add_special_tokens=False) for text in (call, "<|im_end|>")]
        self._waiting: deque[Request] = deque()

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def step(self) -> list[Completion]:
        request = self._waiting.popleft()
        turn = 0 if len(request.images) == 1 else 1
        end = self._ends[turn]
        filled = self._random.choice(self._words, max(0, self._lengths[turn] - len(end)))
        ids = (*map(int, filled), *end)
        seen = sum(image.width * image.height // self._grid**2 for image in request.images)
        logprobs = tuple(-6 * self._random.random(len(ids)))
        return [
            Completion(request.request_id, ids, logprobs, "stop", len(request.prompt_ids) + seen - len(request.images))
        ]

    def busy(self) -> bool:
        return bool(self._waiting)

    def load_weights(self, weights: Mapping[str, np.ndarray], version: int) -> None: ...

    def forget(self) -> None: ...

    def abort_all(self) -> None:
        self._waiting.clear()


def picture(seed: int, sides: tuple[int, int]) -> Image.Image:
    """Smooth colours under fine noise: as bytes about as long as a photograph."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(40, 216, (8, 8, 3), dtype=np.uint8)).resize(
        sides, Image.Resampling.BICUBIC
    )
    noise = random.integers(-2, 3, (sides[1], sides[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse, dtype=np.int64) + noise, 0, 255).astype(np.uint8))


def write_tasks(folder: Path, sides: tuple[int, int]) -> tuple[Task, ...]:
    """Tasks with a picture each, which are in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks: list[Task] = []
    for number in range(GROUPS):
        path = folder / f"{number}.png"
        picture(number, sides).save(path)
        tasks.append(
            Task(
                task_id=f"gpu-{number}",
                prompt="<image>What is the hand pointing at?",
                images=(str(path),),
                ground_truth=NEGATIVE,
            )
        )
    return tuple(tasks)


def played(
    model: str, tasks: tuple[Task, ...], samples: int, turns: tuple[int, int]
) -> tuple[pa.Table, list[pa.Table]]:
    """A TRAINING table of one rank and one optimiser step, and its IMAGES tables."""
    sides = Image.open(tasks[0].images[0]).size
    engine = ScriptedEngine(model, turns, min(sides))
    data = Data(train_files="-", min_pixels=28 * 28, max_pixels=sides[0] * sides[1])
    rollout = Rollout(max_turns=2, max_tokens_per_turn=max(turns))
    player = Player(engine, read_info(model), ChatFormat(read_tokenizer(model)), data, rollout)
    shards = list(player.play(Order("gpu", tasks, samples, Sampling(), shards=2)))
    rollouts = [shard.rollout for shard in shards]
    random = np.random.default_rng(1)
    returned = StageTables(
        rollouts,
        [_scores(table, random) for table in rollouts],
        [_reference(table) for table in rollouts],
    )
    plan = BatchPlan(len(tasks), samples, 1, 1, 1, MicroBatches(rows=1))
    joined = assemble(returned, StepMethod(Algorithm(), plan, AdaptiveState(), 0.0))
    return joined.training, [shard.images for shard in shards]


def _scores(table: pa.Table, random: np.random.Generator) -> pa.Table:
    nothing: dict[str, list[None]] = {term: [None] * table.num_rows for term in SCORE_TERMS}
    rewards = random.normal(5.0, 1.0, table.num_rows)
    return pa.table({"trajectory_id": table.column("trajectory_id"), "reward": rewards, **nothing}, schema=batch.SCORES)


def _reference(table: pa.Table) -> pa.Table:
    return pa.table(
        {
            "trajectory_id": table.column("trajectory_id"),
            "reference_logprobs": table.column("behaviour_logprobs"),
        },
        schema=batch.REFERENCE,
    )


def needed() -> dict[str, SpecifierSet]:
    """The packages that the learner imports, those they need in turn, and the versions that all of them allow."""
    environment = {**default_environment(), "extra": ""}
    own = {
        canonicalize_name(one.name): one.specifier
        for one in map(Requirement, distribution("pointvg-r").requires or ())
        if one.marker is None
    }
    found = {name: own.get(name, SpecifierSet()) for name in DIRECT}
    todo = list(found)
    while todo:
        for one in map(Requirement, distribution(todo.pop()).requires or ()):
            name = canonicalize_name(one.name)
            if name == "torch" or (one.marker is not None and not one.marker.evaluate(environment)):
                continue
            if name not in found:
                todo.append(name)
            found[name] = found.get(name, SpecifierSet()) & one.specifier
    return found


def lacking(installed: Mapping[str, str | None]) -> list[str]:
    """NAME==VERSION of what is needed and not in `installed` in an allowed version (None: any is right)."""

    def there(name: str, allowed: SpecifierSet) -> bool:
        if name not in installed:
            return False
        found = installed[name]
        return found is None or allowed.contains(found, prereleases=True)

    lacks = [name for name, allowed in sorted(needed().items()) if not there(name, allowed)]
    return [f"{name}=={distribution(name).version}" for name in lacks]


def read_installed(text: str) -> dict[str, str | None]:
    """Lines NAME==VERSION, NAME @ URL or NAME.

    >>> read_installed("PyYAML==6.0\\nnumpy")
    {'pyyaml': '6.0', 'numpy': None}
    """
    found: dict[str, str | None] = {}
    for line in text.splitlines():
        if match := re.match(r"([\w.-]+)(?:==([^\s;+]+))?", line.strip()):
            found[canonicalize_name(match[1])] = match[2]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--installed", type=Path, help="what `pip freeze` says on the GPU machine")
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--download", action="store_true", help="fetch the wheels too")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, for the rehearsal on a CPU")
    given = parser.parse_args()
    out: Path = given.out
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out} is not empty; remove it, or give another folder with --out")
    model = build_tiny(out / "model")
    (model / "model.safetensors").unlink()
    if not given.rehearse:
        write_sizes(model, THREE)
    sides, samples, turns = SIDES, SAMPLES, TURNS
    if given.rehearse:
        sides, samples, turns = REHEARSED, REHEARSED_SAMPLES, REHEARSED_TURNS
    training, images = played(str(model), write_tasks(out / "tasks", sides), samples, turns)
    write_batch(out / "batch", training, images)
    wheels = lacking(read_installed(given.installed.read_text()) if given.installed else {})
    (out / "wheels.txt").write_text("".join(f"{wheel}\n" for wheel in wheels))
    if given.download:
        fetch(wheels, out / "wheels", given.python)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    lengths = [len(ids) for ids in training.column("token_ids")]
    print(f"{out}: {len(lengths)} trajectories of {min(lengths)} to {max(lengths)} tokens, {size / 2**20:.1f} MiB")
    if size > LIMIT:
        sys.exit(
            f"{out} has {size / 2**20:.1f} MiB, more than {LIMIT >> 20}; give --installed, so that fewer wheels go"
        )


def fetch(wheels: list[str], folder: Path, python: str) -> None:
    """Downloads wheels for a Linux machine with that Python, and nothing that they need besides."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    options = ["--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *options, "-d", str(folder), *wheels], check=True)


if __name__ == "__main__":
    main()
