"""The model card of an exported model, in the form of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from policy.conversation.model_info import ModelInfo
from schemas.config import Data


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a model's making. `base` is what training started from, `method` a sentence.

    `before` and `after` are numbers of held-out tasks by name; either may be empty.

    >>> Card(base="models/tiny", method="GRPO, 60 steps").after
    {}
    """

    base: str
    method: str
    before: Mapping[str, float] = field(default_factory=dict[str, float])
    after: Mapping[str, float] = field(default_factory=dict[str, float])


def card_text(card: Card, info: ModelInfo, data: Data) -> str:
    """The card as Markdown, with the front matter that the Hub reads. Its license is left to who publishes it."""
    unit = "pixels of the image that the processor hands it" if info.family.frame_kind == "pixels" else "thousandths"
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [pointing, visual-grounding, {info.family.name}]
# license: add yours, in keeping with that of the model it was trained from
---

# A model that follows pointing

It finds the hand in a photo, calls a tool that draws the ray its finger casts, looks again, and names and boxes what is
pointed at. Trained with PointVG-R from `{Path(card.base).name}`: {card.method}. Data: {_files(data)}.

## Use

With transformers and Pillow, in this folder:

```python
from point import Pointer

print(Pointer().look("photo.jpg"))  # hand, ray, target in pixels of the photo, the name, and every reply
```

or `python point.py photo.jpg --picture answer.png`. With vLLM, the first look:

```python
import json
from PIL import Image
from vllm import LLM, SamplingParams

words = json.load(open("pointing.json"))
llm = LLM(".", limit_mm_per_prompt={{"image": 2}})
text = words["prompt"].replace("{{question}}", words["question"])
image = {{"type": "image_pil", "image_pil": Image.open("photo.jpg")}}
said = llm.chat(
    [{{"role": "user", "content": [image, {{"type": "text", "text": text}}]}}],
    SamplingParams(temperature=0, max_tokens=512, stop=["</tool_call>"], include_stop_str_in_output=True,
                   skip_special_tokens=False),
)
```

The second look goes on where the tool was called: `point.py` shows each step. The model writes coordinates as {unit}.
Images of {data.min_pixels} to {data.max_pixels} pixels, as `processor_config.json` says, are what it was trained on.
{_numbers(card)}"""


def _files(data: Data) -> str:
    given = (data.train_files,) if isinstance(data.train_files, str) else data.train_files
    return ", ".join(f"`{Path(name).name}`" for name in given)


def _numbers(card: Card) -> str:
    if not card.after:
        return ""
    rows = [f"| {name} | {_shown(card.before.get(name))} | {_shown(value)} |" for name, value in card.after.items()]
    return "\n## Held-out tasks\n\n| | before | after |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
