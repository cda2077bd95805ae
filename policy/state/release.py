"""What makes an exported model usable by itself: pixel bounds, the words that it was trained with, a script, a card.

export/  model.safetensors, config.json, tokenizer, ...    as transformers reads them
         processor_config.json                             with the pixel bounds of the run
         pointing.json, point.py                           both looks at an image, with transformers alone
         README.md                                         the model card
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.crash_safe import write_json, write_text
from pointing import prompts
from policy.conversation.model_info import read_info
from policy.conversation.question import question_text
from policy.conversation.spoken import WORDS
from policy.state import point
from policy.state.model_card import Card, card_text
from schemas.config import Data

SCRIPT, README = "point.py", "README.md"
FILES = (WORDS, SCRIPT, README)
_SENTINEL = "\ue000\ue002\ue000"


@dataclass(frozen=True, slots=True)
class Lengths:
    """Bounds of an episode: replies, and tokens of each.

    >>> Lengths(max_turns=2, max_new_tokens=512).max_turns
    2
    """

    max_turns: int
    max_new_tokens: int


def release(folder: str | Path, data: Data, lengths: Lengths, card: Card) -> None:
    """Adds to an exported model what it needs to be used without this project. Files of ours are replaced."""
    folder = Path(folder)
    bound_pixels(folder, data)
    write_json(folder / WORDS, words(folder, data, lengths))
    shutil.copyfile(point.__file__, folder / SCRIPT)
    write_text(folder / README, card_text(card, read_info(str(folder)), data))


def bound_pixels(folder: Path, data: Data) -> None:
    """Gives the image processor the bounds of the images that the model was trained on, whatever they were."""
    for name, key in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        file = folder / name
        if not file.is_file():
            continue
        whole: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        settings: dict[str, Any] | None = whole if key is None else whole.get(key)
        if settings is not None:
            settings["size"] = {"shortest_edge": data.min_pixels, "longest_edge": data.max_pixels}
            settings.pop("min_pixels", None)  # older names of the same, which would win
            settings.pop("max_pixels", None)
            write_json(file, whole)


def words(folder: Path, data: Data, lengths: Lengths) -> dict[str, Any]:
    """What point.py says to the model, and how it reads what the model says. `{question}` stands for the question."""
    frame = read_info(str(folder)).family.frame_kind
    return {
        "question": prompts.QUESTION,
        "prompt": question_text(_SENTINEL, data.prompt_style, frame).replace(_SENTINEL, "{question}"),
        "system_prompt": data.system_prompt,
        "drawn": prompts.DRAWN,
        "malformed": prompts.MALFORMED,
        "outside": prompts.OUTSIDE,
        "frame": frame,
        "max_turns": lengths.max_turns,
        "max_new_tokens": lengths.max_new_tokens,
    }
