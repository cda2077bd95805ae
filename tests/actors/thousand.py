"""Run as a script in a process of its own: plays 1,000 trajectories with the shipped model on the real engine and
compares, token by token, what the engine was given and sampled with what the learner will train on.

    python thousand.py SCENES_FOLDER
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(TORCHDYNAMO_DISABLE="1", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

from actors.engine import Completion, Request
from actors.player import Order, Player
from actors.vllm_engine import VllmEngine
from pointing.dataset import DatasetOptions, read
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import read_info, read_tokenizer
from schemas.config import TrainConfig
from schemas.config.file import load

ROOT = Path(__file__).resolve().parent.parent.parent


class Witness:
    """The engine, with a record of every prompt it was given and every id it sampled."""

    def __init__(self, engine: VllmEngine) -> None:
        self.engine = engine
        self.prompts: dict[str, tuple[int, ...]] = {}
        self.sampled: dict[str, list[tuple[int, ...]]] = {}

    def add(self, request: Request) -> None:
        self.prompts[request.request_id] = request.prompt_ids
        self.engine.add(request)

    def step(self) -> list[Completion]:
        finished = self.engine.step()
        for completion in finished:
            self.sampled.setdefault(completion.request_id, []).append(completion.token_ids)
        return finished


def collapsed(ids: list[int], image: int) -> tuple[int, ...]:
    """The learner's ids with each run of placeholders as the one that the engine takes."""
    return tuple(token for at, token in enumerate(ids) if token != image or at == 0 or ids[at - 1] != image)


def main(scenes: Path) -> dict[str, int]:
    config = load(TrainConfig, ROOT / "configs" / "quickstart.yaml", [f"model.path={ROOT / 'models' / 'tiny'}"]).config
    info = read_info(config.model.path)
    chat = ChatFormat(read_tokenizer(config.model.path))
    forbidden = chat.forbidden_ids(info.vocab_size)
    witness = Witness(
        VllmEngine(
            config.model.path,
            config.rollout.engine,
            forbidden_ids=forbidden,
            max_images=4,
            pixels=config.data.pixels,
            seed=0,
        )
    )
    player = Player(witness, info, chat, config.data, config.rollout)  # type: ignore[arg-type]
    tasks = read(DatasetOptions(files=(str(scenes / "train.jsonl"),))).tasks
    counts = {"trajectories": 0, "two_turns": 0, "same_ids": 0, "same_sampled": 0, "mask_is_sampled": 0}
    for shard in player.play(Order("0", tasks, 1000 // len(tasks), config.rollout.sampling)):
        for row in shard.rollout.to_pylist():
            name, ids, mask = row["trajectory_id"], row["token_ids"], row["mask"]
            sampled = [token for turn in witness.sampled[name] for token in turn]
            whole = witness.prompts[name] + witness.sampled[name][-1]
            counts["trajectories"] += 1
            counts["two_turns"] += len(row["turn_lengths"]) == 2
            counts["same_ids"] += collapsed(ids, info.image_token_id) == whole
            counts["same_sampled"] += [t for t, m in zip(ids, mask, strict=True) if m] == sampled
            counts["mask_is_sampled"] += sum(mask) == len(sampled) == sum(row["turn_lengths"])
    return counts


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
