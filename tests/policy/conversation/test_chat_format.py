"""Prompts, observations and targets: the ids of the model's own chat template, and the same for both stages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.conversation.chat_format import ChatFormat
from policy.conversation.ledger import ImageRef, Ledger
from policy.tiny.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
IMAGES = [ImageRef("a", (1, 4, 4), 4), ImageRef("b", (1, 4, 6), 6)]
TURNS = ('<think>hm</think>\n<tool_call>{"name": "draw_ray"}</tool_call>', "<answer>a cup</answer>")

# In the manner of Qwen3-VL's thinking models: content may be a string or parts, earlier thoughts are dropped, and the
# generation prompt opens a thought.
THINKING = """\
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content.split('</think>')[-1] }}
{%- else %}{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>
{%- else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""


def with_template(template: str):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_the_prompt_is_the_chat_templates():
    chat = ChatFormat(TOKENIZER)
    text = TOKENIZER.decode(chat.prompt_ids("What?", 2), skip_special_tokens=False)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{image}{image}What?<|im_end|>\n<|im_start|>assistant\n"
    )
    own = TOKENIZER.decode(ChatFormat(TOKENIZER, "Be brief.").prompt_ids("What?", 0), skip_special_tokens=False)
    assert own.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat?")


@pytest.mark.parametrize("default_system", [True, False])
def test_an_observation_closes_the_turn_once(default_system):
    tokenizer = build_tokenizer(default_system=default_system)
    chat = ChatFormat(tokenizer, "Be brief.")
    expected = (
        "<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Look:<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = chat.observation_ids("Look:", with_image=True)
    assert tokenizer.decode(ids, skip_special_tokens=False) == expected
    assert chat.observation_ids("Look:", with_image=True, closed=True) == ids[1:]
    assert ids[0] == chat.end_id


def test_a_template_with_its_own_generation_prompt():
    tokenizer = with_template(THINKING)
    text = tokenizer.decode(ChatFormat(tokenizer).observation_ids("no", False), skip_special_tokens=False)
    assert text == "<|im_end|>\n<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\n<think>\n"


def test_a_template_that_does_not_close_turns_is_refused():
    with pytest.raises(ValueError, match="does not close an assistant turn"):
        ChatFormat(with_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"))


@pytest.mark.parametrize(("text", "images"), [("a <|image_pad|>", 1), ("<|image_pad|>", 0)])
def test_a_placeholder_in_the_text_is_refused(text, images):
    chat = ChatFormat(TOKENIZER)
    with pytest.raises(ValueError, match="out of the text"):
        chat.prompt_ids(text, images)
    with pytest.raises(ValueError, match="out of the text"):
        chat.observation_ids(text, bool(images))


def rolled_out(chat: ChatFormat, turns, observation) -> Ledger:
    """What a rollout appends when the engine samples the canonical ids of these texts."""
    ledger = Ledger(chat.prompt_ids("What?", 1), IMAGES[:1], chat.image_token_id)
    encode = chat.tokenizer.encode
    ids = encode(turns[0], add_special_tokens=False)
    ledger.append_sampled(ids, [-1.0] * len(ids), 4, turns[0], "stop")
    ledger.append_observation(chat.observation_ids(observation, True), IMAGES[1:])
    ids = [*encode(turns[1], add_special_tokens=False), chat.end_id]
    ledger.append_sampled(ids, [-1.0] * len(ids), 4, turns[1], "stop")
    return ledger


plain = st.text(st.characters(codec="utf-8", exclude_characters="<\ue000\ue001"), max_size=30)


@given(plain, plain, plain)
def test_both_stages_build_identical_conversations(thought, observation, answer):
    chat = ChatFormat(TOKENIZER)
    turns = (f"{thought}<tool_call>{{}}</tool_call>", answer)
    supervised = chat.sft_ledger("What?", IMAGES[:1], turns, [(observation, IMAGES[1])])
    sampled = rolled_out(chat, turns, observation)
    assert supervised.learner_ids() == sampled.learner_ids()
    assert supervised.engine_ids() == sampled.engine_ids()
    assert supervised.mask() == sampled.mask()


def test_the_ledger_is_the_rendered_conversation():
    """The oracle renders and encodes the whole conversation at once."""
    chat = ChatFormat(TOKENIZER)
    ledger = chat.sft_ledger("What?", IMAGES[:1], TURNS, [("Look:", IMAGES[1])])
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    again = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Look:"}]}
    said = [{"role": "assistant", "content": turn} for turn in TURNS]
    whole = TOKENIZER.apply_chat_template([user, said[0], again, said[1]], tokenize=False)
    assert ledger.engine_ids() == TOKENIZER.encode(whole.removesuffix("\n"), add_special_tokens=False)
    targets = [t for t, m in zip(ledger.learner_ids(), ledger.mask(), strict=True) if m]
    assert TOKENIZER.decode(targets, skip_special_tokens=False) == "".join(TURNS) + "<|im_end|>"


def test_observations_lie_between_turns():
    with pytest.raises(ValueError, match="2 turns need 1 observations"):
        ChatFormat(TOKENIZER).sft_ledger("What?", [], TURNS, [])


def test_decoding_keeps_special_tokens_and_drops_the_end():
    chat = ChatFormat(TOKENIZER)
    text = "a <|box_start|>[1, 2]<|box_end|> .  b"
    for end in ("", "<|im_end|>", "<|endoftext|>"):
        assert chat.decode(TOKENIZER.encode(text + end, add_special_tokens=False)) == text
    assert chat.decode(TOKENIZER.encode("a<|im_end|><|im_end|>", add_special_tokens=False)) == "a<|im_end|>"
    assert chat.decode([]) == ""


def test_forbidden_ids_are_vision_tokens_and_rows_without_a_token():
    chat = ChatFormat(TOKENIZER)
    size = len(TOKENIZER)
    forbidden = chat.forbidden_ids(size + 3)
    names = {TOKENIZER.convert_ids_to_tokens(i) for i in forbidden if i < size}
    assert names == {"<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"}
    assert [i for i in forbidden if i >= size] == [size, size + 1, size + 2]
