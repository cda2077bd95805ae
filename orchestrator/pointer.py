"""A trained model in one object, in this process: what does the hand in this photo point at?

    pointer = LocalPointer("runs/quickstart/export", samples=8)
    answer = pointer.point("photo.jpg")
    answer.name, answer.target, answer.confidence          # "cup", (136.0, 36.0, 206.0, 102.0), 0.88

Over HTTP the same is asked of a service.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.environment import environment
from policy.conversation.spoken import read_spoken
from schemas.config.rollout import sampling_of

if TYPE_CHECKING:
    from orchestrator.evaluation.answers import Answer
    from orchestrator.predict_run import Oracle


def prepare_process() -> None:
    """Threads and logs for an engine in this process: to be called before torch or vLLM is imported."""
    gpu = Path("/dev/nvidiactl").exists()
    os.environ.update(environment(int(gpu), os.cpu_count() or 1))  # before anything reads them
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # that there is none is no news to a user


class LocalPointer:
    """Answers about photos. A process can hold one: it has a vLLM engine, which starts with the first question."""

    def __init__(self, model: str | Path, *, samples: int = 1) -> None:
        """`model` is a folder that a run or `pointvg export` wrote; of several `samples` the agreed one is the answer.

        Raises SettingError for another folder.
        """
        if samples < 1:
            raise ValueError(f"samples={samples}: expected 1 or more")
        self._model = str(model)
        self._samples = samples
        self._spoken = read_spoken(model)
        self._oracle: Oracle | None = None

    def point(self, photo: str | Path, question: str | None = None) -> Answer:
        """The answer for one photo; boxes are in pixels of the photo turned upright. Raises ImageError."""
        return self.ask([photo], question)[0]

    def ask(self, photos: Sequence[str | Path], question: str | None = None) -> list[Answer]:
        """An answer for each photo, in order; quicker than one by one. `question` is the model's own where None.

        Raises ImageError, naming the file.
        """
        prepare_process()
        from orchestrator.predict_run import Oracle, read_asked

        asked = read_asked([str(photo) for photo in photos], self._spoken, question)
        if self._oracle is None:
            self._oracle = Oracle(self._model, self._spoken, asked, least=self._spoken.min_pixels // 2)
        return list(self._oracle.answers(asked, self._samples, sampling_of(self._samples)))
