"""Says what a hand in a photo points at. Lies in a trained model's folder, and needs transformers and Pillow alone.

    python point.py photo.jpg
    python point.py photo.jpg --question "What is the hand pointing at?" --picture answer.png

or from Python, in that folder:

    from point import Pointer
    Pointer().look("photo.jpg")

The model says where the hand is and calls draw_ray; it is shown the image with the ray drawn, and answers.
pointing.json has the words that it was trained with.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

HERE = Path(__file__).resolve().parent
MARK = "\ue000\ue001\ue000"
NUMBER = r"\s*(-?\d+)\s*"
BOX = re.compile(rf"<\|box_start\|>\s*\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\]\s*<\|box_end\|>")
CAPTION = re.compile(r"<\|caption_start\|>(.*?)<\|caption_end\|>", re.DOTALL)
CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
KEYS = {"name", "start", "end", "color"}
STOP, END = "</tool_call>", "<|im_end|>"

Point = tuple[float, float]
Line = tuple[Point, Point]


class Pointer:
    """A trained model, its processor and the words it was trained with."""

    def __init__(self, folder: str | Path = HERE, device: str | None = None) -> None:
        """Loads the model of a folder, by default this file's; onto a GPU where there is one."""
        self.words: dict[str, Any] = json.loads((Path(folder) / "pointing.json").read_text(encoding="utf-8"))
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
        self.model = model.to(self.device).eval()

    def look(self, photo: str | Path | Image.Image, question: str | None = None) -> dict[str, Any]:
        """The whole episode, greedily.

        Returns `hand` and `target` as [left, top, right, bottom], `ray` as [[x, y], [x, y]], all in pixels of the photo
        turned upright and None where nothing was said, the target's `name`, and every `replies`.
        """
        original = photo if isinstance(photo, Image.Image) else Image.open(photo)
        original = ImageOps.exif_transpose(original).convert("RGB")
        seen = self.seen(original)
        text = self.prompt(question or self.words["question"])
        images, replies, ray = [seen], list[str](), None
        while True:
            reply = self.generate(text, images)
            replies.append(reply)
            if len(replies) == self.words["max_turns"] or reply.rfind("<answer>") >= reply.rfind("<tool_call>"):
                break
            said = called_ray(reply)
            observation, drawn = self.observe(seen, said)
            ray = said if drawn is not None else ray
            text += reply + self.increment(observation, drawn is not None)
            images += [drawn] if drawn is not None else []
        return self.read(replies, ray, seen.size, original.size)

    def seen(self, image: Image.Image) -> Image.Image:
        """The image on the model's grid, as it was trained on it."""
        settings = self.processor.image_processor
        low, high = settings.size["shortest_edge"], settings.size["longest_edge"]
        height, width = smart_resize(image.height, image.width, settings.patch_size * settings.merge_size, low, high)
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)

    def prompt(self, question: str) -> str:
        """The conversation up to the first reply, as text."""
        asked = self.words["prompt"].replace("{question}", question)
        system = self.words["system_prompt"]
        first = [] if system is None else [{"role": "system", "content": system}]
        return self.render([*first, {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked}]}])

    def increment(self, observation: str, with_image: bool) -> str:
        """What follows a reply: its end, the observation, and the start of the next reply."""
        content = [*([{"type": "image"}] if with_image else []), {"type": "text", "text": observation}]
        empty = [{"type": "text", "text": ""}]
        turns = [{"role": "user", "content": empty}, {"role": "assistant", "content": MARK}]
        return self.render([*turns, {"role": "user", "content": content}]).split(MARK)[1]

    def render(self, messages: list[dict[str, Any]]) -> str:
        """Messages in the model's chat template."""
        return self.processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def generate(self, text: str, images: list[Image.Image]) -> str:
        """One reply, without the token that ends it; special tokens are kept."""
        inputs = self.processor(text=[text], images=images, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            ids = self.model.generate(
                **inputs,
                max_new_tokens=self.words["max_new_tokens"],
                do_sample=False,
                stop_strings=[STOP],
                tokenizer=self.processor.tokenizer,
            )
        reply = self.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=False)
        return reply.removesuffix("<|endoftext|>").removesuffix(END)

    def observe(self, seen: Image.Image, ray: Line | None) -> tuple[str, Image.Image | None]:
        """What the model is shown after a tool call: a sentence, and the image with the ray if it can be drawn."""
        if ray is None:
            return self.words["malformed"], None
        try:
            inside = clipped(self.to(ray[0], seen.size, seen.size), self.to(ray[1], seen.size, seen.size), seen.size)
        except OverflowError:
            inside = None
        return (self.words["outside"], None) if inside is None else (self.words["drawn"], with_line(seen, inside))

    def to(self, point: Point, seen: tuple[int, int], target: tuple[int, int]) -> Point:
        """A point as the model writes it, in pixels of an image of the size `target`."""
        limits = seen if self.words["frame"] == "pixels" else (1000, 1000)
        return point[0] * target[0] / limits[0], point[1] * target[1] / limits[1]

    def read(
        self, replies: list[str], ray: Line | None, seen: tuple[int, int], original: tuple[int, int]
    ) -> dict[str, Any]:
        """The parts of the replies, in pixels of the photo."""

        def box(found: list[tuple[str, ...]], which: int) -> list[float] | None:
            if not found:
                return None
            x1, y1, x2, y2 = map(int, found[which])
            return [*self.to((x1, y1), seen, original), *self.to((x2, y2), seen, original)]

        answer = replies[-1].rpartition(STOP)[2]
        names = CAPTION.findall(answer)
        return {
            "hand": box(BOX.findall(replies[0]), 0) if STOP in replies[0] else None,
            "ray": None if ray is None else [list(self.to(point, seen, original)) for point in ray],
            "target": box(BOX.findall(answer), -1),
            "name": names[-1] if names else None,
            "replies": replies,
        }


def called_ray(reply: str) -> Line | None:
    """The ends of the ray that the last tool call of a reply names, as the model writes them; None for no such call."""
    calls = CALL.findall(reply)
    try:
        call = json.loads(calls[-1])
        (x1, y1), (x2, y2) = call["start"], call["end"]
        known = call.keys() == KEYS and (call["name"], call["color"]) == ("draw_ray", "red")
        return ((x1, y1), (x2, y2)) if known and all(type(v) is int for v in (x1, y1, x2, y2)) else None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def clipped(start: Point, end: Point, size: tuple[int, int]) -> Line | None:
    """The part of a line inside an image (Liang and Barsky, 1984); None where it is shorter than a pixel."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    first, last = 0.0, 1.0
    for step, room in ((-dx, start[0]), (dx, size[0] - start[0]), (-dy, start[1]), (dy, size[1] - start[1])):
        if step == 0:
            if room < 0:
                return None
        elif step < 0:
            first = max(first, room / step)
        else:
            last = min(last, room / step)
    if first > last:
        return None
    ends = [start if first <= 0 else (start[0] + first * dx, start[1] + first * dy)]
    ends += [end if last >= 1 else (start[0] + last * dx, start[1] + last * dy)]
    a, b = ((min(max(x, 0.0), size[0]), min(max(y, 0.0), size[1])) for x, y in ends)
    return None if math.dist(a, b) < 1 else (a, b)


def with_line(image: Image.Image, line: Line) -> Image.Image:
    """A copy of the image with the line drawn as in training."""
    drawn = image.copy()
    points = [(min(round(x), image.width - 1), min(round(y), image.height - 1)) for x, y in line]
    ImageDraw.Draw(drawn).line(points, fill="red", width=max(2, round(min(image.size) / 100)))
    return drawn


def main() -> None:
    """The command line."""
    arguments = argparse.ArgumentParser(description="Says what a hand in a photo points at.")
    arguments.add_argument("photo", type=Path)
    arguments.add_argument("--question")
    arguments.add_argument("--picture", type=Path, help="file to draw hand, ray and target into")
    given = arguments.parse_args()
    answer = Pointer().look(given.photo, given.question)
    print(json.dumps(answer, indent=2, ensure_ascii=False))
    if given.picture:
        picture = ImageOps.exif_transpose(Image.open(given.photo)).convert("RGB")
        pen, width = ImageDraw.Draw(picture), max(2, round(min(picture.size) / 150))
        for key, colour in (("hand", "blue"), ("target", "lime")):
            if answer[key]:
                pen.rectangle(answer[key], outline=colour, width=width)
        if answer["ray"]:
            pen.line([tuple(point) for point in answer["ray"]], fill="red", width=width)
        picture.save(given.picture)


if __name__ == "__main__":
    main()
