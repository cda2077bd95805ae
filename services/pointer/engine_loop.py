"""One vLLM engine in a thread of its own; requests join it while others are played.

route (asyncio) --Order, image--> thread: join, step, step, ... --Told, as turns end--> route
"""

from __future__ import annotations

import asyncio
import queue
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future

from PIL.Image import Image

from actors.player import Order, Player, Told
from policy.conversation.spoken import read_spoken
from schemas.config import Sampling
from schemas.task import GroundTruth, Task
from services.http.not_answered import NotAnsweredError

Tell = Callable[[Told | Exception], None]


class PlayingError(NotAnsweredError):
    """The engine failed."""

    public = "the model could not answer; send it again; see the service's log"


class UnfitError(ValueError):
    """A question or photo that the model cannot be asked about; the message says why."""


class EngineLoop:
    """Plays episodes for any number of callers at once. Raises what the engine raises where it cannot be started."""

    def __init__(self, model: str) -> None:
        self.spoken = read_spoken(model)
        self._model = model
        self._commands: queue.SimpleQueue[Callable[[Player], None] | None] = queue.SimpleQueue()
        self._images: dict[str, Image] = {}
        self._tell: dict[str, Tell] = {}
        self._failure: Exception | None = None
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="engine", daemon=True)
        self._thread.start()
        started.result()

    def check(self) -> None:
        """Raises when the engine has failed or its thread has ended: the replica is then replaced."""
        if self._failure is not None or not self._thread.is_alive():
            raise PlayingError("the engine has stopped") from self._failure

    def close(self) -> None:
        """Ends the thread once it has nothing to play."""
        self._commands.put(None)

    async def play(self, image: Image, question: str, samples: int, sampling: Sampling) -> AsyncIterator[Told]:
        """The turns of all samples as they end. Closing the iterator drops what is left of them.

        Raises UnfitError where the model cannot be asked this, PlayingError where the engine fails.
        """
        self.check()
        name, loop = uuid.uuid4().hex, asyncio.get_running_loop()
        inbox: asyncio.Queue[Told | Exception] = asyncio.Queue()
        task = Task(task_id=name, prompt=f"<image>{self.spoken.asked(question)}", images=(name,), ground_truth=_UNKNOWN)
        self._images[name] = image
        self._tell[name] = lambda told: _hand_over(loop, inbox, told)
        order = Order(name, (task,), samples, sampling)
        self._commands.put(lambda player: self._join(player, order))
        try:
            playing = samples
            while playing:
                told = await inbox.get()
                if isinstance(told, Exception):
                    raise told
                playing -= told.ended_by is not None
                yield told
        finally:
            self._images.pop(name, None)
            self._tell.pop(name, None)
            self._commands.put(lambda player: player.leave(name))

    def _join(self, player: Player, order: Order) -> None:
        tell = self._tell.get(order.name)
        if tell is None:
            return  # it has left before it came in
        try:
            player.join(order)
        except ValueError as error:
            tell(UnfitError(str(error)))

    def _run(self, started: Future[None]) -> None:
        try:
            player = self._open()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while self._obey(player):
                for told in player.step():
                    tell = self._tell.get(told.order)
                    if tell is not None:
                        tell(told)
        except Exception as error:
            self._failure = error
            for tell in list(self._tell.values()):
                failed = PlayingError(f"the engine failed: {type(error).__name__}: {error}")
                failed.__cause__ = error
                tell(failed)

    def _obey(self, player: Player) -> bool:
        """Does what has been asked for; waits while nothing is played. False when told to end."""
        while not player.busy() or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            command(player)
        return True

    def _open(self) -> Player:
        from actors.exported import open_player

        spoken = self.spoken
        # Between narrow bounds there may be no size on the model's grid for a photo's shape.
        least = spoken.min_pixels if 2 * spoken.min_pixels <= spoken.max_pixels else spoken.min_pixels // 2
        return open_player(self._model, spoken, 1, least, self._images.__getitem__)


_UNKNOWN = GroundTruth()


def _hand_over(loop: asyncio.AbstractEventLoop, inbox: asyncio.Queue[Told | Exception], told: Told | Exception) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(inbox.put_nowait, told)
