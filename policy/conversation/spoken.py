"""What an exported model was trained to be asked, read from its folder: the other side of policy/state/release.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PositiveInt, ValidationError

from schemas.config.file import SettingError
from schemas.task import Record

WORDS = "pointing.json"


class Spoken(Record):
    """The words of one model. `{question}` in `prompt` stands for the question; sizes are in tokens and pixels.

    `min_pixels` and `max_pixels` are the bounds of an image's area as the model sees it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    question: str
    prompt: Annotated[str, Field(pattern=r"\{question\}")]
    system_prompt: str | None
    max_turns: PositiveInt
    max_new_tokens: PositiveInt
    min_pixels: PositiveInt
    max_pixels: PositiveInt

    def asked(self, question: str) -> str:
        """The user's text for a question."""
        return self.prompt.replace("{question}", question)


def read_spoken(model: str | Path) -> Spoken:
    """Raises SettingError, naming the file, for a folder that `pointvg export` or a run did not write."""
    folder = Path(model)
    words = _read(folder, WORDS, "give the export folder of a run, or the one that `pointvg export` wrote")
    remedy = "export the model again: pointvg export"
    processor = _read(folder, "processor_config.json", remedy)
    try:
        size = processor["image_processor"]["size"]
        bounds = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        return Spoken.model_validate(words | bounds)
    except (KeyError, TypeError) as error:
        raise SettingError("--model", str(model), f"processor_config.json lacks {error}", remedy) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        said = f"{WORDS}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise SettingError("--model", str(model), said, remedy) from None


def _read(folder: Path, name: str, remedy: str) -> dict[str, Any]:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingError("--model", str(folder), f"no {name} there", remedy) from None
    except (OSError, ValueError) as error:
        raise SettingError("--model", str(folder), f"{name} cannot be used ({error})", remedy) from None
