"""Plays the episodes of a shard of tasks on one engine, many at a time.

    task --prompt--> engine --turn--> episode --observation--> engine --turn--> ... --> trajectory
                        ^                                         |
                        '---- each sample goes on by itself ------'

A sample continues to its next turn in the iteration in which its own tool call was drawn; nothing waits for the rest of
the batch. A shard is handed out as soon as all its groups are finished.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from PIL.Image import Image

from actors.engine import Completion, Engine, Request
from pointing.coordinates import Frame, Size
from pointing.drawing import open_image
from pointing.episode import Ended, Episode
from policy.conversation.chat_format import ChatFormat
from policy.conversation.ledger import Ledger
from policy.conversation.model_info import ModelInfo
from policy.conversation.question import question_text
from policy.conversation.seen_image import Seen, encode, see
from schemas import batch
from schemas.config import Data, Rollout, Sampling
from schemas.task import Task
from schemas.trajectory import EndedBy, Kind, Trajectory

Numbered = tuple[int, Task]  # a task with its place in the order


@dataclass(frozen=True, slots=True)
class Order:
    """What to play: every task `samples` times at one sampling setting.

    `name` opens every trajectory_id, so that ids are unique in a run (the training step, or "validation-40").

    `seed` is for runs that must repeat exactly. Every turn is then drawn with a seed of its own, and one shard is
    played after another on an engine that remembers nothing: which requests are computed together, and so the last
    bits of their sums, depend on the shard alone.
    """

    name: str
    tasks: tuple[Task, ...]
    samples: int
    sampling: Sampling
    kind: Kind = "sample"
    shards: int = 1
    seed: int | None = None
    done: frozenset[int] = frozenset()  # numbers of tasks that need not be played: an order that is issued again


@dataclass(frozen=True, slots=True)
class Shard:
    """Finished groups: their trajectories, and their images once per group."""

    rollout: pa.Table
    images: pa.Table


@dataclass(frozen=True, slots=True)
class Told:
    """A turn that has just ended: all turns of its sample so far, and the image that the sample is shown next, as PNG.

    `order` is the order's name. `ended_by` is None while the sample goes on. `frame` is that of the texts.
    """

    order: str
    sample: int
    texts: tuple[str, ...]
    frame: Frame
    shown: bytes | None
    ended_by: EndedBy | None


@dataclass(slots=True)
class _Play:
    """One sample in play. The only mutable state here; it becomes a frozen Trajectory."""

    task: Task
    group_id: str
    sample: int
    frame: Frame
    episode: Episode
    ledger: Ledger
    images: list[Seen]
    request_id: str


@dataclass(slots=True)
class _Group:
    """Collects the finished trajectories of one task."""

    task: Task
    frame: Frame
    waiting: int
    trajectories: list[Trajectory] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)


class Player:
    """Turns tasks into trajectories with one engine. `version` is stamped on every turn.

    Orders are played to their end with `play`, or join and leave one by one with `join`, `step` and `leave`: a player
    is used in one of the two ways. `opened` gives the image that a task names.
    """

    def __init__(
        self,
        engine: Engine,
        model: ModelInfo,
        chat: ChatFormat,
        data: Data,
        rollout: Rollout,
        opened: Callable[[str], Image] = open_image,
    ) -> None:
        self._engine = engine
        self._opened = opened
        self._joined: dict[str, tuple[_Play, Order, dict[str, _Group]]] = {}
        self._model = model
        self._chat = chat
        self._data = data
        self._rollout = rollout
        self.version = 0

    def play(self, order: Order) -> Iterator[Shard]:
        """Yields shards of whole groups, in order of tasks, each when its groups and those before it are finished."""
        parts = _split(list(enumerate(order.tasks)), order.shards)
        parts = [left for part in parts if (left := [task for task in part if task[0] not in order.done])]
        if order.seed is None:
            yield from self._together(order, parts)
            return
        for part in parts:
            self._engine.forget()
            yield from self._together(order, [part])

    def join(self, order: Order) -> None:
        """Puts an order beside what is played already; its name is its own. Raises ValueError where it does not fit."""
        groups: dict[str, _Group] = {}
        begun = [play for number, task in enumerate(order.tasks) for play in self._begin(order, number, task, groups)]
        try:
            for play in begun:
                self._submit(play, order)
                self._joined[play.request_id] = play, order, groups
        except ValueError:
            self.leave(order.name)
            raise

    def step(self) -> list[Told]:
        """One iteration of the engine over all that joined; the turns that ended in it."""
        told: list[Told] = []
        for completion in self._engine.step():
            found = self._joined.get(completion.request_id)
            if found is None:
                continue  # its order left in the meantime
            play, order, groups = found
            before = len(play.images)
            reason = self._advance(play, completion, groups, order)
            shown = play.images[-1].png if len(play.images) > before else None
            texts = tuple(turn.text for turn in play.ledger.turns)
            told.append(Told(order.name, play.sample, texts, play.frame, shown, reason))
            if reason is not None:
                del self._joined[completion.request_id]
        return told

    def busy(self) -> bool:
        """True while something that joined goes on."""
        return bool(self._joined)

    def leave(self, name: str) -> None:
        """Drops what is left of an order that joined; nothing where it has ended."""
        gone = [id_ for id_, (_, order, _) in self._joined.items() if order.name == name]
        self._engine.abort(gone)
        for id_ in gone:
            del self._joined[id_]

    def _together(self, order: Order, parts: Sequence[Sequence[Numbered]]) -> Iterator[Shard]:
        """All parts in the engine at once; a shard of each."""
        groups: dict[str, _Group] = {}
        plays: dict[str, _Play] = {}
        remaining: list[list[str]] = []
        for part in parts:
            begun = [play for number, task in part for play in self._begin(order, number, task, groups)]
            for play in begun:
                plays[play.request_id] = play
                self._submit(play, order)
            remaining.append(list(dict.fromkeys(play.group_id for play in begun)))
        while remaining:
            if all(groups[name].waiting == 0 for name in remaining[0]):
                yield _to_shard([groups.pop(name) for name in remaining.pop(0)], order.kind)
                continue
            for completion in self._engine.step():
                self._advance(plays[completion.request_id], completion, groups, order)

    def _begin(self, order: Order, number: int, task: Task, groups: dict[str, _Group]) -> list[_Play]:
        originals = [self._opened(path) for path in task.images]
        _refuse_replaced(task, [image.size for image in originals])
        family, data = self._model.family, self._data
        seen = [see(image, family, data.min_pixels, data.max_pixels) for image in originals]
        original = Size(*originals[0].size)
        frame = Frame(family.frame_kind, original, Size(*seen[0].image.size))
        text = question_text(task.question, data.prompt_style, family.frame_kind)
        prompt_ids = self._chat.prompt_ids(text, len(seen))
        group_id = group_name(order.name, number, task)
        groups[group_id] = _Group(task, frame, order.samples, images={s.ref.digest: s.png for s in seen})
        return [
            _Play(
                task=task,
                group_id=group_id,
                sample=sample,
                frame=frame,
                episode=Episode([s.image for s in seen], frame, self._rollout.max_turns),
                ledger=Ledger(prompt_ids, [s.ref for s in seen], self._model.image_token_id),
                images=list(seen),
                request_id=f"{group_id}/{sample}",
            )
            for sample in range(order.samples)
        ]

    def _room(self, play: _Play) -> int:
        """Tokens that the next turn may have."""
        left = self._rollout.engine.max_model_len - len(play.ledger.learner_ids())
        return min(self._rollout.max_tokens_per_turn, left)

    def _submit(self, play: _Play, order: Order) -> None:
        room = self._room(play)
        if room < 1:
            raise ValueError(
                f"{play.task.source or play.task.task_id}: a prompt of {len(play.ledger.learner_ids())} tokens leaves "
                f"no room in rollout.engine.max_model_len={self._rollout.engine.max_model_len}; raise it, or lower "
                "data.max_prompt_tokens so that such tasks are left out"
            )
        turn = len(play.ledger.turns)
        seed = None if order.seed is None else _seed(order.seed, play.request_id, turn)
        self._engine.add(
            Request(
                request_id=play.request_id,
                prompt_ids=tuple(play.ledger.engine_ids()),
                images=tuple(s.image for s in play.images),
                digests=tuple(s.ref.digest for s in play.images),
                sampling=order.sampling,
                max_tokens=room,
                stop=self._chat.stop,
                seed=seed,
            )
        )

    def _advance(self, play: _Play, turn: Completion, groups: dict[str, _Group], order: Order) -> EndedBy | None:
        """Takes a finished turn into the record and goes on to the next one, or ends the episode and says by what."""
        expected = len(play.ledger.learner_ids())
        if turn.prompt_tokens != expected:
            raise RuntimeError(
                f"{play.task.source or play.task.task_id}: the engine made {turn.prompt_tokens} tokens of a prompt "
                f"that is {expected} to the learner: its image processor resizes or counts otherwise. Use the "
                "processor files of the original checkpoint, and the versions of docker/constraints-*.txt"
            )
        text = self._chat.decode(turn.token_ids)
        play.ledger.append_sampled(turn.token_ids, turn.logprobs, self.version, text, turn.finish_reason)
        if turn.finish_reason == "length":
            return _finish(play, "token_limit", groups[play.group_id], order.kind)
        outcome = play.episode.step(text)
        if isinstance(outcome, Ended):
            return _finish(play, outcome.reason, groups[play.group_id], order.kind)
        seen = [] if outcome.image is None else [encode(outcome.image, self._model.family)]
        closed = turn.token_ids[-1] == self._chat.end_id
        ids = self._chat.observation_ids(outcome.text, with_image=bool(seen), closed=closed)
        play.ledger.append_observation(ids, [s.ref for s in seen])
        play.images.extend(seen)
        if self._room(play) < 1:
            return _finish(play, "length_limit", groups[play.group_id], order.kind)
        self._submit(play, order)
        return None


def group_name(order: str, number: int, task: Task) -> str:
    """The group_id of an order's task; `number` counts the order's tasks."""
    return f"{order}/{number}/{task.task_id}"


def _refuse_replaced(task: Task, found: Sequence[tuple[int, int]]) -> None:
    """Raises ValueError for an image of another size than the one that the ground truth was checked against."""
    for path, size, before in zip(task.images, found, task.image_sizes, strict=False):  # no sizes where none were read
        if size != before:
            raise ValueError(
                f"{task.source or task.task_id}: {path} has {size[0]} x {size[1]} pixels and had {before[0]} x "
                f"{before[1]} when the run began: it was replaced; put the old one back and give the same command again"
            )


def _finish(play: _Play, reason: EndedBy, group: _Group, kind: Kind) -> EndedBy:
    ledger = play.ledger
    group.images.update({s.ref.digest: s.png for s in play.images})
    group.waiting -= 1
    group.trajectories.append(
        Trajectory(
            trajectory_id=play.request_id,
            task_id=play.task.task_id,
            group_id=play.group_id,
            sample=play.sample,
            kind=kind,
            token_ids=tuple(ledger.learner_ids()),
            mask=tuple(ledger.mask()),
            behaviour_logprobs=tuple(ledger.behaviour_logprobs()),
            image_digests=tuple(s.ref.digest for s in play.images),
            image_grids=tuple(s.ref.grid for s in play.images),
            turns=tuple(ledger.turns),
            ended_by=reason,
        )
    )
    return reason


def _to_shard(groups: Sequence[_Group], kind: Kind) -> Shard:
    rows = [
        (group, trajectory) for group in groups for trajectory in sorted(group.trajectories, key=lambda t: t.sample)
    ]
    trajectories = [t for _, t in rows]
    truths = [
        "none" if g.task.ground_truth.negative else g.task.ground_truth.model_dump_json(exclude_none=True)
        for g, _ in rows
    ]
    rollout = pa.table(
        {
            "trajectory_id": [t.trajectory_id for t in trajectories],
            "group_id": [t.group_id for t in trajectories],
            "task_id": [t.task_id for t in trajectories],
            "sample": [t.sample for t in trajectories],
            "kind": [kind] * len(rows),
            "token_ids": [t.token_ids for t in trajectories],
            "mask": [t.mask for t in trajectories],
            "behaviour_logprobs": [t.behaviour_logprobs for t in trajectories],
            "image_digests": [t.image_digests for t in trajectories],
            "image_grids": [t.image_grids for t in trajectories],
            "turn_texts": [[turn.text for turn in t.turns] for t in trajectories],
            "turn_lengths": [[turn.n_tokens for turn in t.turns] for t in trajectories],
            "turn_versions": [[turn.policy_version for turn in t.turns] for t in trajectories],
            "ended_by": [t.ended_by for t in trajectories],
            "reply": [t.reply for t in trajectories],
            "ground_truth": truths,
            "frame": [g.frame.kind for g, _ in rows],
            "original_size": [[g.frame.original.width, g.frame.original.height] for g, _ in rows],
            "seen_size": [[g.frame.seen.width, g.frame.seen.height] for g, _ in rows],
        },
        schema=batch.ROLLOUT,
    )
    pictures = [(name, group.trajectories[0].group_id, png) for group in groups for name, png in group.images.items()]
    images = pa.table(
        {
            "digest": [name for name, _, _ in pictures],
            "group_id": [group_id for _, group_id, _ in pictures],
            "png": [png for _, _, png in pictures],
        },
        schema=batch.IMAGES,
    )
    return Shard(batch.check(rollout, batch.ROLLOUT, "rollout"), batch.check(images, batch.IMAGES, "rollout images"))


def _split(tasks: list[Numbered], parts: int) -> list[list[Numbered]]:
    """Contiguous parts whose sizes differ by at most one; empty ones left out."""
    count = min(parts, len(tasks))
    bounds = [round(i * len(tasks) / count) for i in range(count + 1)]
    return [tasks[a:b] for a, b in itertools.pairwise(bounds)]


def _seed(base: int, request_id: str, turn: int) -> int:
    """A seed of its own for every turn, the same wherever and whenever it is sampled."""
    return int.from_bytes(hashlib.blake2b(f"{base}/{request_id}/{turn}".encode(), digest_size=7).digest(), "big")
