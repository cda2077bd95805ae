"""From text to ids and back: prompts, observations and supervised targets in the model's own chat template.

    prompt_ids | turn, stops at </tool_call> | observation_ids | turn, ends with <|im_end|>

An observation is the increment of the chat template rendered around a sentinel, so nothing of the template is repeated
here and what was sampled is never encoded again. Supervised targets take the same methods and the same ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from pointing import tool
from policy.conversation.ledger import ImageRef, Ledger

END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
IMAGE_PAD = "<|image_pad|>"
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", IMAGE_PAD, "<|video_pad|>")

_SENTINEL = "\ue000\ue001\ue000"  # private-use characters: no template writes them
NOT_SAMPLED = -1  # policy version of a turn that was written, not sampled


class ChatFormatError(ValueError):
    """A tokenizer or a text that a conversation cannot be written with; `remedy` says what to do about `reason`."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy

    def __reduce__(self) -> tuple[type[ChatFormatError], tuple[str, str]]:
        """Its parts: it crosses processes whole."""
        return type(self), (self.reason, self.remedy)


class ChatFormat:
    """The conversation format of one tokenizer. `stop` ends a turn that calls a tool; `end_id` ends any other turn."""

    stop = tool.CLOSE

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None = None) -> None:
        """Reads the special ids and checks the chat template.

        Args:
            tokenizer: with a chat template and Qwen's vision tokens.
            system_prompt: None keeps what the chat template writes by itself.

        Raises ChatFormatError where they do not fit.
        """
        self.tokenizer = tokenizer
        self.end_id = _token_id(tokenizer, END_OF_TURN)
        self.image_token_id = _token_id(tokenizer, IMAGE_PAD)
        self._closing = {self.end_id, _token_id(tokenizer, END_OF_TEXT)}
        self._system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        self._increment = lru_cache(maxsize=256)(self._render_increment)
        self.observation_ids("", with_image=False)  # fails here, not in the first rollout, if the template does not fit

    def prompt_ids(self, question_text: str, n_images: int) -> list[int]:
        """Ids of the question with its images first, ending in the generation prompt; one placeholder per image.

        Raises ChatFormatError if the text itself spells a placeholder.
        """
        ids = self._encode(self._render([*self._system, _user(question_text, n_images)]))
        return self._checked(ids, n_images, question_text)

    def observation_ids(self, text: str, with_image: bool, closed: bool = False) -> list[int]:
        """Ids that follow a sampled turn: its closing, the user's turn with the observation, the generation prompt.

        Args:
            text: the observation; the image, if any, comes before it.
            with_image: whether one placeholder is written.
            closed: whether the turn's own ids already end with <|im_end|>, which is then not written again.
        """
        ids = list(self._increment(text, with_image))
        return ids[1:] if closed else ids

    def sft_ledger(
        self,
        question: str,
        images: Sequence[ImageRef],
        turns: Sequence[str],
        observations: Sequence[tuple[str, ImageRef | None]] = (),
    ) -> Ledger:
        """The conversation that a rollout with these turns would have produced; its mask marks the targets.

        A turn that ends with </tool_call> stops there, any other ends with <|im_end|>, which is a target too.

        Args:
            question: the user's text.
            images: of the question.
            turns: what the assistant should say, in order.
            observations: (text, image or None) between consecutive turns: one fewer than turns.
        """
        if len(observations) != len(turns) - 1:
            raise ValueError(
                f"{len(turns)} turns need {len(turns) - 1} observations between them, got {len(observations)}"
            )
        ledger = Ledger(self.prompt_ids(question, len(images)), images, self.image_token_id)
        for turn, text in enumerate(turns):
            ids = self.turn_ids(text)
            ledger.append_sampled(ids, [0.0] * len(ids), NOT_SAMPLED, text, "stop")
            if turn < len(observations):
                said, image = observations[turn]
                closed = ids[-1] == self.end_id
                ledger.append_observation(
                    self.observation_ids(said, image is not None, closed), [image] if image is not None else []
                )
        return ledger

    def turn_ids(self, text: str) -> list[int]:
        """Canonical ids of one assistant turn, with the id that ends it where </tool_call> does not."""
        ids = self._encode(text)
        return ids if text.endswith(tool.CLOSE) else [*ids, self.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids: special tokens kept, spaces untouched, one closing <|im_end|> or end of text dropped."""
        kept = ids[:-1] if len(ids) and ids[-1] in self._closing else ids
        text = self.tokenizer.decode(list(kept), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def forbidden_ids(self, vocab_size: int) -> tuple[int, ...]:
        """Ids below `vocab_size` that may never be sampled: vision tokens, and rows of the head without a token."""
        vision = {i for i in map(self.tokenizer.convert_tokens_to_ids, VISION_TOKENS) if isinstance(i, int)}
        vision.discard(_unknown_id(self.tokenizer))
        known = set(self.tokenizer.get_vocab().values())
        return tuple(i for i in range(vocab_size) if i in vision or i not in known)

    def _render_increment(self, text: str, with_image: bool) -> tuple[int, ...]:
        conversation = [_user("", 0), {"role": "assistant", "content": _SENTINEL}, _user(text, int(with_image))]
        before, *after = self._render(conversation).split(_SENTINEL)
        if len(after) != 1 or not after[0].startswith(END_OF_TURN):
            raise ChatFormatError(
                f"the tokenizer's chat template does not close an assistant turn with {END_OF_TURN} (it wrote "
                f"{''.join(after)[:40]!r} after {before[-40:]!r})",
                "use the template of a Qwen vision-language model",
            )
        return tuple(self._checked(self._encode(after[0]), int(with_image), text))

    def _render(self, messages: list[dict[str, Any]]) -> str:
        rendered = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert isinstance(rendered, str)
        return rendered

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _checked(self, ids: list[int], n_images: int, text: str) -> list[int]:
        found = ids.count(self.image_token_id)
        if found != n_images:
            raise ChatFormatError(
                f"{found} image placeholders for {n_images} images in the conversation around {text[:80]!r}",
                f"take {IMAGE_PAD} out of the text",
            )
        return ids


def _user(text: str, n_images: int) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}] * n_images + [{"type": "text", "text": text}]}


def _unknown_id(tokenizer: PreTrainedTokenizerBase) -> int:
    unknown = tokenizer.unk_token_id
    return unknown if isinstance(unknown, int) else -1


def _token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or found == _unknown_id(tokenizer):
        raise ChatFormatError(f"the tokenizer has no {token}", "use that of a Qwen vision-language model")
    return found
