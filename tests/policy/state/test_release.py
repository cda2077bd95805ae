"""An exported folder is enough: its script and the library's own ways give what this project's path gives."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from pointing.coordinates import Frame, Size
from pointing.drawing import draw_ray
from pointing.episode import Ended, Episode
from pointing.grammar import parse
from pointing.prompts import QUESTION
from pointing.scenes import render
from policy.conversation.chat_format import ChatFormat
from policy.conversation.ledger import Ledger
from policy.conversation.model_info import read_info, read_tokenizer
from policy.conversation.question import question_text
from policy.conversation.seen_image import see
from policy.state import point
from policy.state.model_card import Card
from policy.state.release import Lengths, release
from policy.tiny.model import build_tiny
from schemas.config import Data
from tests.policy.batches import ARCHITECTURES, learner_of

DATA = Data(train_files="train.jsonl", prompt_style="short", min_pixels=12544, max_pixels=12544)
WIDE = DATA.model_copy(update={"min_pixels": 56 * 56, "max_pixels": 128 * 128, "prompt_style": "detailed"})
TRAINED = Path(__file__).parents[3] / "models/tiny"


def released(folder: Path, start: str, data: Data) -> Path:
    learner_of(start).export(str(folder))
    release(folder, data, Lengths(2, 60), Card("models/start", "GRPO, 3 steps", {"reward": 1.0}, {"reward": 2.5}))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released(tmp_path_factory.mktemp("trained") / "export", str(TRAINED), DATA)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("photo") / "scene.png"
    render(7).image.save(file)
    return file


def bare() -> dict[str, str]:
    """An environment in which this project cannot be imported."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}


def played(folder: Path, photo: Path) -> list[str]:
    """The replies of a greedy episode by this project's conversation and episode, and the stock model."""
    info, chat = read_info(str(folder)), ChatFormat(read_tokenizer(str(folder)))
    original = Image.open(photo).convert("RGB")
    seen = see(original, info.family, *DATA.pixels)
    frame = Frame(info.family.frame_kind, Size(*original.size), Size(*seen.image.size))
    episode, pictures, replies = Episode([seen.image], frame), [seen.image], []
    ledger = Ledger(
        chat.prompt_ids(question_text(QUESTION, "short", info.family.frame_kind), 1), [seen.ref], info.image_token_id
    )
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    images = AutoProcessor.from_pretrained(folder).image_processor
    while True:
        ids = torch.tensor([ledger.learner_ids()])
        given = dict(images(images=pictures, return_tensors="pt"))
        given["mm_token_type_ids"] = (ids == info.image_token_id).int()
        out = model.generate(
            ids, **given, max_new_tokens=60, do_sample=False, stop_strings=[chat.stop], tokenizer=chat.tokenizer
        )
        new = out[0, ids.shape[1] :].tolist()
        replies.append(chat.decode(new))
        outcome = episode.step(replies[-1])
        if isinstance(outcome, Ended):
            return replies
        assert outcome.image is not None
        ledger.append_sampled(new, [0.0] * len(new), 0, replies[-1], "stop")
        drawn = see(outcome.image, info.family, *DATA.pixels)
        ledger.append_observation(chat.observation_ids(outcome.text, True, new[-1] == chat.end_id), [drawn.ref])
        pictures.append(drawn.image)


def test_the_script_plays_both_looks_as_this_project_does(trained: Path, photo: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(trained / "point.py"), str(photo), "--picture", str(tmp_path / "answer.png")]
    done = subprocess.run(command, cwd=tmp_path, env=bare(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["replies"] == played(trained, photo)
    assert len(answer["replies"]) == 2
    truth = render(7).truth
    assert answer["target"] is not None
    assert answer["hand"] is not None
    assert truth.hand_bbox is not None
    said = parse(answer["replies"][1]).boxes[0]
    size, frame = Image.open(photo).size, Size(112, 112)
    assert answer["target"] == [said[i] * size[i % 2] / (frame.width, frame.height)[i % 2] for i in range(4)]
    assert Image.open(tmp_path / "answer.png").size == size


@pytest.mark.cluster
def test_vllm_gives_the_same_first_look(trained: Path, photo: Path, tmp_path: Path) -> None:
    card = (trained / "README.md").read_text()
    code = card.split("```python")[2].split("```")[0]
    code = code.replace('"photo.jpg"', repr(str(photo))).replace(
        'LLM(".", ', 'LLM(".", enforce_eager=True, max_model_len=512, kv_cache_memory_bytes=2**27, block_size=32, '
    )
    file = tmp_path / "first.py"
    file.write_text(
        "def main():\n"
        + "\n".join(f"    {line}" for line in code.splitlines())
        + "\n    print('SAID', json.dumps(said[0].outputs[0].text))\n\nif __name__ == '__main__':\n    main()\n"
    )
    done = subprocess.run(
        [sys.executable, str(file)], cwd=trained, env=bare(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert json.loads(line.removeprefix("SAID ")) == played(trained, photo)[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_words_are_those_of_training(architecture: str, tmp_path: Path) -> None:
    """Ids of the prompt and of the second look, with an image off the grid, through the processor and the ledger."""
    start = str(build_tiny(tmp_path / "start", architecture))
    folder = released(tmp_path / "export", start, WIDE)
    pointer = point.Pointer(folder)
    info, chat = read_info(start), ChatFormat(read_tokenizer(start))
    image = Image.effect_noise((250, 131), 60).convert("RGB")
    seen = see(image, info.family, *WIDE.pixels)
    assert pointer.seen(image).tobytes() == seen.image.tobytes()
    call = '<tool_call>{"name": "draw_ray", "start": [9, 9], "end": [60, 40], "color": "red"}</tool_call>'
    question = question_text("Which one?", "detailed", info.family.frame_kind)
    ledger = Ledger(chat.prompt_ids(question, 1), [seen.ref], info.image_token_id)
    ledger.append_sampled(chat.turn_ids(call), [0.0] * len(chat.turn_ids(call)), 0, call, "stop")
    said, drawn = pointer.observe(pointer.seen(image), point.called_ray(call))
    frame = Frame(info.family.frame_kind, Size(*image.size), Size(*seen.image.size))
    outcome = Episode([seen.image], frame).step(call)
    assert not isinstance(outcome, Ended)
    assert outcome.image is not None
    assert drawn is not None
    assert (said, drawn.tobytes()) == (outcome.text, outcome.image.tobytes())
    ledger.append_observation(chat.observation_ids(said, True), [seen.ref])
    text = pointer.prompt("Which one?") + call + pointer.increment(said, True)
    ids = pointer.processor(text=[text], images=[pointer.seen(image), drawn])["input_ids"][0]
    assert list(ids) == ledger.learner_ids()


numbers = st.integers(-300, 300)


@settings(deadline=None)
@given(start=st.tuples(numbers, numbers), end=st.tuples(numbers, numbers), size=st.tuples(*[st.integers(1, 120)] * 2))
def test_the_scripts_ray_is_the_projects(start: tuple[int, int], end: tuple[int, int], size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "grey")
    line = point.clipped(start, end, size)
    try:
        expected = draw_ray(image, start, end)
    except ValueError:
        assert line is None
    else:
        assert line is not None
        assert point.with_line(image, line).tobytes() == expected.tobytes()


CALLS = (
    st.sampled_from(["draw_ray", "zoom"]),
    st.sampled_from(["red", "blue"]),
    numbers | st.floats() | st.booleans(),
    st.sampled_from([{}, {"width": 3}]),
)


@settings(deadline=None)
@given(
    name=CALLS[0], color=CALLS[1], x=CALLS[2], more=st.sampled_from([{}, {"width": 3}]), tail=st.sampled_from(["", "x"])
)
def test_the_script_reads_the_calls_that_count(name: str, color: str, x: Any, more: dict[str, int], tail: str) -> None:
    call = json.dumps({"name": name, "start": [x, 2], "end": [3, 4], "color": color} | more)
    reply = f"<tool_call>{call}{tail}</tool_call>"
    (expected,) = parse(reply, strict=True).tool_calls or (None,)
    assert point.called_ray(reply) == (None if expected is None else (expected.start, expected.end))


def test_bounds_replace_older_ones_in_both_files(tmp_path: Path) -> None:
    start = build_tiny(tmp_path / "start")
    image = json.loads((start / "processor_config.json").read_text())["image_processor"]
    (start / "preprocessor_config.json").write_text(json.dumps(image | {"min_pixels": 1, "max_pixels": 2}))
    folder = released(tmp_path / "export", str(start), WIDE)
    for settings_of in (
        json.loads((folder / "processor_config.json").read_text())["image_processor"],
        json.loads((folder / "preprocessor_config.json").read_text()),
    ):
        assert settings_of["size"] == {"shortest_edge": WIDE.min_pixels, "longest_edge": WIDE.max_pixels}
        assert "max_pixels" not in settings_of


def test_the_card_says_what_is_known_and_all_may_read(tmp_path: Path) -> None:
    start = build_tiny(tmp_path / "start")
    (start / "README.md").write_text("of another model")
    learner_of(str(start)).export(str(tmp_path / "plain"))
    assert not (tmp_path / "plain" / "README.md").exists()
    before = os.umask(0o027)
    try:
        folder = released(tmp_path / "export", str(start), DATA)
    finally:
        os.umask(before)
    card = (folder / "README.md").read_text()
    assert "| reward | 1.000 | 2.500 |" in card
    assert "`start`: GRPO, 3 steps" in card
    assert "pixels of the image that the processor hands it" in card
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o640}
    assert math.isclose(json.loads((folder / "pointing.json").read_text())["max_turns"], 2)
