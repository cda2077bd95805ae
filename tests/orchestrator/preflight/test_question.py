"""A question in the configured style, and a chat template of one's own: in prompts, in SFT and in their length."""

import json
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.batch.tasks import read_dataset, row_reader
from orchestrator.sft import _with_whole_paths
from pointing.dataset import Dataset
from pointing.prompts import instruction
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import model_tokenizer, read_info, read_tokenizer
from policy.conversation.question import question_text
from policy.conversation.transcripts import supervised
from policy.tiny.model import build_tiny
from schemas.config import Data, Model, SftConfig, TrainConfig
from schemas.config.file import ConfigError

OWN = """\
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}
{%- if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}[{{ c.text }}]{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny(tmp_path_factory.mktemp("tiny"), seed=0))


def wrap(folder: Path, text: str) -> str:
    file = folder / "wrap.jinja"
    file.write_text(text)
    return str(file)


def test_the_built_in_styles_are_the_instructions() -> None:
    assert question_text("What?", "short", "pixels") == "What?"
    assert question_text("What?", "detailed", "thousandths") == instruction("What?", True, "thousandths")


def test_a_template_wraps_the_question(tmp_path: Path) -> None:
    style = wrap(tmp_path, "\n{{ content | trim }} Answer in <answer> & no more.\n")
    assert question_text(" {{ What? }} ", style, "pixels") == "{{ What? }} Answer in <answer> & no more."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ question }}", "'question' is undefined; `content`"),
        ("{{ content", "line 1: "),
        ("What is it?", "leaves the question out"),
    ],
)
def test_a_template_that_cannot_work_is_refused(tmp_path: Path, text: str, said: str) -> None:
    style = wrap(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        question_text("What?", style, "pixels")
    assert said in str(caught.value)
    assert style in str(caught.value)


def test_a_missing_template_is_refused(tmp_path: Path, tiny: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.prompt_style='no\.jinja': cannot be read"):
        question_text("What?", "no.jinja", "pixels")
    with pytest.raises(ConfigError, match=r"model\.chat_template='no\.jinja': cannot be read"):
        model_tokenizer(Model(path=tiny, chat_template="no.jinja"))


def task_file(folder: Path) -> str:
    Image.new("RGB", (56, 56)).save(folder / "a.png")
    row = {"prompt": "What?", "images": ["a.png"], "ground_truth": "none"}
    (folder / "tasks.jsonl").write_text(json.dumps(row))
    return str(folder / "tasks.jsonl")


def read_with(model: Model, data: Data, files: tuple[str, ...]) -> Dataset:
    return read_dataset(
        data, files, row_reader(TrainConfig.model_validate({"model": model, "data": data, "trainer": {"max_steps": 1}}))
    )


def test_both_templates_reach_the_prompt_and_its_length(tmp_path: Path, tiny: str) -> None:
    (tmp_path / "own.jinja").write_text(OWN)
    model = Model(path=tiny, chat_template=str(tmp_path / "own.jinja"))
    style = wrap(tmp_path, "Look: {{ content }}")
    data = Data(train_files=task_file(tmp_path), prompt_style=style, min_pixels=28 * 28, max_pixels=56 * 56)
    dataset = read_with(model, data, (str(data.train_files),))
    chat = ChatFormat(model_tokenizer(model))
    ledger = supervised(dataset.tasks[0], read_info(tiny), chat, data).ledger
    text = chat.tokenizer.decode(ledger.engine_ids(), skip_special_tokens=False)
    assert text.startswith(
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>[Look: What?]<|im_end|>\n<|im_start|>assistant\n"
    )
    prompt = len(chat.prompt_ids("Look: What?", 1)) - 1 + 4  # 56 x 56 pixels are four visual tokens
    short = data.model_copy(update={"max_prompt_tokens": prompt - 1, "on_error": "skip"})
    assert len(read_with(model, data.model_copy(update={"max_prompt_tokens": prompt}), (data.train_files,)).tasks) == 1
    with pytest.raises(ValueError, match="1 prompts too long"):
        read_with(model, short, (str(data.train_files),))


def test_a_chat_template_that_does_not_close_a_turn_is_refused_before_anything_starts(
    tmp_path: Path, tiny: str
) -> None:
    (tmp_path / "plain.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    model = Model(path=tiny, chat_template=str(tmp_path / "plain.jinja"))
    with pytest.raises(ConfigError, match=r"model\.chat_template=.*plain\.jinja': .*does not close an assistant turn"):
        read_with(model, Data(train_files=task_file(tmp_path)), (task_file(tmp_path),))


def test_without_an_override_the_template_is_the_checkpoints(tiny: str) -> None:
    assert model_tokenizer(Model(path=tiny)).chat_template == read_tokenizer(tiny).chat_template


def test_workers_elsewhere_get_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "model": {"path": "m", "chat_template": "own.jinja"},
        "data": {"train_files": "a.jsonl", "prompt_style": "wrap.jinja"},
        "trainer": {"samples": 1},
    }
    config = _with_whole_paths(SftConfig.model_validate(values))
    assert config.model.path == str(tmp_path / "m")
    assert config.model.chat_template == str(tmp_path / "own.jinja")
    assert config.data.prompt_style == str(tmp_path / "wrap.jinja")
    values["data"]["prompt_style"] = "short"
    assert _with_whole_paths(SftConfig.model_validate(values)).data.prompt_style == "short"
