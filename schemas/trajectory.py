"""A finished attempt at a task: what was said, what was sampled, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["sample", "greedy"]
SegmentKind = Literal["prompt", "sampled", "observation"]
EndedBy = Literal["answer", "turn_limit", "token_limit", "length_limit"]


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One assistant turn.

    >>> TurnRecord(text="<answer>...</answer>", n_tokens=12, finish_reason="stop", policy_version=3).policy_version
    3
    """

    text: str
    n_tokens: int
    finish_reason: str
    policy_version: int


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished episode in the learner's view. The four token columns have equal length.

    `token_ids` holds every vision placeholder (the expanded view); `mask` is 1 on exactly the ids that the engine
    sampled; `behaviour_logprobs` is the sampler's own log-probability there and 0 elsewhere. `turns` are the assistant
    turns, special tokens kept, the closing `<|im_end|>` dropped; joined they are the reply that is scored.
    `image_digests` names the images in the order of their placeholders; `image_grids` holds (t, h, w) in patches.

    >>> t = TurnRecord("<answer>no</answer>", 2, "stop", 0)
    >>> Trajectory("0/t1/0", "t1", "0/t1", 0, "sample", (5, 6, 7), (0, 1, 1), (0.0, -1.5, -0.25), (), (), (t,),
    ...            "answer").n_sampled
    2
    """

    trajectory_id: str
    task_id: str
    group_id: str
    sample: int
    kind: Kind
    token_ids: tuple[int, ...]
    mask: tuple[int, ...]
    behaviour_logprobs: tuple[float, ...]
    image_digests: tuple[str, ...]
    image_grids: tuple[tuple[int, int, int], ...]
    turns: tuple[TurnRecord, ...]
    ended_by: EndedBy

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.mask) == len(self.behaviour_logprobs):
            raise ValueError(
                f"trajectory {self.trajectory_id}: token_ids ({len(self.token_ids)}), mask ({len(self.mask)}) and "
                f"behaviour_logprobs ({len(self.behaviour_logprobs)}) differ in length"
            )
        if sum(self.mask) != sum(turn.n_tokens for turn in self.turns):
            raise ValueError(
                f"trajectory {self.trajectory_id}: the mask covers {sum(self.mask)} tokens, the engine sampled "
                f"{sum(turn.n_tokens for turn in self.turns)}"
            )

    @property
    def n_sampled(self) -> int:
        """Number of tokens the engine sampled."""
        return sum(self.mask)

    @property
    def reply(self) -> str:
        """The assistant's text over all turns, without observations: what the reward scores."""
        return "\n".join(turn.text for turn in self.turns)
