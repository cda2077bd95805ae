"""The token ledger of one conversation: what was prompted, sampled and observed, id by id.

    prompt (mask 0) -> sampled (mask 1, log-probabilities) -> observation (mask 0) -> sampled -> ...

Token in, token out: ids are appended, never re-encoded, so the learner trains on exactly what the engine sampled. There
are two views of the same ids: the engine takes one placeholder per image and expands it itself; the learner needs all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isfinite

from schemas.trajectory import SegmentKind, TurnRecord


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image of the conversation: its digest, its grid (t, h, w) in patches and its placeholders after merging.

    >>> ImageRef("9f2c", (1, 8, 8), 16).n_tokens
    16
    """

    digest: str
    grid: tuple[int, int, int]
    n_tokens: int

    def __post_init__(self) -> None:
        if self.n_tokens < 1 or min(self.grid) < 1:
            raise ValueError(f"image {self.digest}: grid {self.grid} and {self.n_tokens} tokens must all be positive")


@dataclass(frozen=True, slots=True)
class Segment:
    """Ids appended at once, in the engine's view. `logprobs` is empty unless they were sampled.

    >>> Segment("prompt", (1, 9, 2), (), (ImageRef("9f2c", (1, 2, 2), 1),)).kind
    'prompt'
    """

    kind: SegmentKind
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    images: tuple[ImageRef, ...]


class Ledger:
    """Append-only record of one conversation.

    >>> ledger = Ledger([1, 9, 2], [ImageRef("9f2c", (1, 2, 4), 2)], image_token_id=9)
    >>> ledger.append_sampled([5, 6], [-0.5, -0.25], policy_version=3, text="hi", finish_reason="stop")
    >>> ledger.engine_ids(), ledger.learner_ids(), ledger.mask()
    ([1, 9, 2, 5, 6], [1, 9, 9, 2, 5, 6], [0, 0, 0, 0, 1, 1])
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        images: Sequence[ImageRef],
        image_token_id: int,
        forbidden_ids: Collection[int] = frozenset(),
    ) -> None:
        """Opens with the prompt.

        Args:
            prompt_ids: one placeholder per image.
            images: in the order of their placeholders.
            image_token_id: the placeholder; it may never be sampled.
            forbidden_ids: other ids that may never be sampled (give a set: it is looked up per token).
        """
        self.image_token_id = image_token_id
        self._forbidden = forbidden_ids
        self._segments: list[Segment] = []
        self._turns: list[TurnRecord] = []
        self._append("prompt", prompt_ids, (), images)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What was appended, in order."""
        return tuple(self._segments)

    @property
    def turns(self) -> tuple[TurnRecord, ...]:
        """The sampled turns, in order."""
        return tuple(self._turns)

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """Every image so far, in the order of the placeholders."""
        return tuple(image for segment in self._segments for image in segment.images)

    @property
    def n_sampled(self) -> int:
        """Number of sampled ids: what the mask sums to."""
        return sum(turn.n_tokens for turn in self._turns)

    def append_sampled(
        self, ids: Sequence[int], logprobs: Sequence[float], policy_version: int, text: str, finish_reason: str
    ) -> None:
        """Appends one assistant turn exactly as the engine sampled it.

        Raises ValueError if the ids hold a placeholder or another forbidden id, if a log-probability is not finite, if
        the lengths differ, or if the last segment was a sampled turn too.
        """
        turn = len(self._turns)
        if self._segments[-1].kind == "sampled":
            raise ValueError(f"turn {turn}: follows turn {turn - 1} directly; append the observation between them")
        if len(ids) != len(logprobs):
            raise ValueError(f"turn {turn}: {len(ids)} ids but {len(logprobs)} log-probabilities")
        for at, (token, logprob) in enumerate(zip(ids, logprobs, strict=True)):
            if token == self.image_token_id or token in self._forbidden:
                raise ValueError(
                    f"turn {turn}: sampled id {token} at position {at} is a vision placeholder or not a token; "
                    "mask the forbidden ids in the sampler"
                )
            if not isfinite(logprob):
                raise ValueError(f"turn {turn}: log-probability {logprob} of id {token} at position {at} is not finite")
        self._append("sampled", ids, logprobs, ())
        self._turns.append(TurnRecord(text, len(ids), finish_reason, policy_version))

    def append_observation(self, ids: Sequence[int], images: Sequence[ImageRef] = ()) -> None:
        """Appends what follows a turn: its closing, the observation and the next generation prompt.

        Raises ValueError if the placeholders do not match the images, or if no turn precedes.
        """
        if self._segments[-1].kind != "sampled":
            raise ValueError(f"an observation follows a sampled turn, not a segment of kind {self._segments[-1].kind}")
        self._append("observation", ids, (), images)

    def engine_ids(self) -> list[int]:
        """Every id with one placeholder per image: what vLLM takes."""
        return [token for segment in self._segments for token in segment.ids]

    def learner_ids(self) -> list[int]:
        """Every id with each placeholder repeated once per visual token: what the network's forward pass takes."""
        expanded: list[int] = []
        for segment in self._segments:
            images = iter(segment.images)
            for token in segment.ids:
                expanded.extend([token] * (next(images).n_tokens if token == self.image_token_id else 1))
        return expanded

    def mask(self) -> list[int]:
        """1 on exactly the sampled ids; aligned with learner_ids."""
        return [int(s.kind == "sampled") for s in self._segments for _ in range(self._learner_length(s))]

    def behaviour_logprobs(self) -> list[float]:
        """The sampler's log-probability of each sampled id, 0 elsewhere; aligned with learner_ids."""
        return [x for s in self._segments for x in (s.logprobs or (0.0,) * self._learner_length(s))]

    def _learner_length(self, segment: Segment) -> int:
        return len(segment.ids) + sum(image.n_tokens - 1 for image in segment.images)

    def _append(
        self, kind: SegmentKind, ids: Sequence[int], logprobs: Sequence[float], images: Sequence[ImageRef]
    ) -> None:
        segment = Segment(kind, tuple(ids), tuple(logprobs), tuple(images))
        placeholders = segment.ids.count(self.image_token_id)
        if placeholders != len(segment.images):
            raise ValueError(
                f"{kind} (segment {len(self._segments)}): {placeholders} image placeholders (id {self.image_token_id}) "
                f"for {len(segment.images)} images; write exactly one per image and none in the text"
            )
        self._segments.append(segment)
