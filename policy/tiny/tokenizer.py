"""The tokenizer and chat template of the small models: Qwen's special tokens over bytes, in a few hundred ids.

Any text is representable (256 bytes); what a transcript consists of is one token a piece: each coordinate, each fixed
phrase, each colour and shape. A two-turn transcript is about forty tokens, short enough to train on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pointing import tool
from pointing.prompts import PHRASES
from pointing.scene_layout import COLOURS, SHAPES

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
IMAGE_PAD = "<|image_pad|>"
VIDEO_PAD = "<|video_pad|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"

SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|point_start|>",
    "<|point_end|>",
    "<|caption_start|>",
    "<|caption_end|>",
    VISION_START,
    VISION_END,
    "<|vision_pad|>",
    IMAGE_PAD,
    VIDEO_PAD,
)
# As in Qwen, the tags of a tool call are added but not special: they survive skip_special_tokens.
TAGS = (tool.OPEN, tool.CLOSE)
DEFAULT_SYSTEM = "You are a helpful assistant."
ROLES = ("system\n", "user\n", "assistant\n", "tool\n")
SEPARATOR = ", "
N_COORDINATES = 113  # 0..112: both edges of the 112-pixel image that the small models see

_MESSAGE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""
_SYSTEM = f"""\
{{%- if messages and messages[0]['role'] != 'system' -%}}
{{{{- '<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n' -}}}}
{{%- endif -%}}
"""


def chat_template(default_system: bool) -> str:
    """The conversation format of Qwen2-VL and Qwen2.5-VL (with their default system message) or Qwen3-VL (without)."""
    return (_SYSTEM if default_system else "") + _MESSAGE


def build_tokenizer(
    phrases: Sequence[str] = PHRASES, n_coordinates: int = N_COORDINATES, default_system: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with Qwen's special tokens and one token for each piece of a transcript.

    Pieces are matched leftmost-longest, and whatever none of them covers falls to bytes, so that any text survives
    encoding and decoding unchanged (with skip_special_tokens=False).

    Args:
        phrases: fixed text between numbers and caption words; one token each, special markers inside included.
        n_coordinates: "0" .. str(n_coordinates - 1) are one token each; larger numbers take two.
        default_system: whether the chat template opens with Qwen's default system message.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    numbers = [str(i) for i in range(n_coordinates)]
    words = [*COLOURS, *(f" {shape}" for shape in SHAPES)]
    pieces = [*TAGS, *ROLES, DEFAULT_SYSTEM, SEPARATOR, *numbers, *words, *phrases]
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in dict.fromkeys(pieces)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in (END_OF_TEXT, END_OF_TURN)],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    wrapped.chat_template = chat_template(default_system)
    return wrapped


def coordinate_ids(tokenizer: PreTrainedTokenizerFast, n_coordinates: int = N_COORDINATES) -> list[int]:
    """The ids of "0" .. str(n_coordinates - 1), in that order."""
    return [token_id(tokenizer, str(i)) for i in range(n_coordinates)]


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token of the vocabulary; raises ValueError if it has none."""
    found = tokenizer.get_vocab().get(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return found
