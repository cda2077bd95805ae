"""One's own reward function in place of the built-in one, as published: a list of dictionaries in, another out.

    replica --one batch at a time--> its own process (custom_worker.py) --> path.py:name(inputs, **kwargs)

An input has `response`, `ground_truth` (as the data has it), `id` and `frame`: {"kind", "original_size", "seen_size"},
or None where coordinates are in pixels of the original image. An output has `overall` (or `reward`) and any other
numbers, which become the terms.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pointing.coordinates import Frame
from schemas.config.service import ServiceOptions
from services.reward.scoring import BuiltIn, Item, Reward, Scored, ScoringError

ROOT = Path(__file__).resolve().parents[2]  # where `services` lies
RAY_SECRETS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def open_reward(options: ServiceOptions) -> Reward:
    """What `options` ask to score with. Raises ScoringError if a function cannot be loaded."""
    if options.function is None:
        return BuiltIn(options.rules)
    return CustomReward(
        options.function,
        options.function_kwargs,
        options.function_timeout_s,
        turn_timeout_s=options.request_timeout_s,
        secrets=(*RAY_SECRETS, *filter(None, [options.token_env])),
    )


class CustomReward:
    """A user's function. Loads it at once, again after it was stopped. Raises ScoringError in the function's words.

    function: "path.py:name". timeout_s bounds loading, and each batch from when it is its turn; turn_timeout_s is how
    long a batch waits for it. secrets: environment variables that the function's process does not get.
    """

    def __init__(
        self,
        function: str,
        kwargs: Mapping[str, Any],
        timeout_s: float,
        *,
        turn_timeout_s: float = 60.0,
        secrets: Sequence[str] = (),
    ) -> None:
        self.function = function
        self._kwargs = json.dumps(dict(kwargs))
        self._timeout_s = timeout_s
        self._turn_timeout_s = turn_timeout_s
        self._secrets = frozenset(secrets)
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        with self._turn:
            self._started()

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """See Reward."""
        inputs = [_input(item) for item in items]
        if not self._turn.acquire(timeout=self._turn_timeout_s):
            raise ScoringError(
                f"{self.function}: a batch of {len(inputs)} waited longer than {self._turn_timeout_s:g} s for its turn "
                "(reward.request_timeout_s); add reward.replicas, or make the function faster"
            )
        try:
            outputs = self._ask(self._started(), inputs)
        finally:
            self._turn.release()
        return [
            Scored(out["overall"], {k: v for k, v in out.items() if k not in ("overall", "reward")}) for out in outputs
        ]

    def check(self) -> None:
        """The function is loaded; one that was stopped is loaded again. A batch in progress is not waited for."""
        if self._turn.acquire(blocking=False):
            try:
                self._started()
            finally:
                self._turn.release()

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        process = self._process
        if process is not None:
            _end(process)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        path, _, name = self.function.rpartition(":")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.reward.custom_worker", path, name, self._kwargs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
            env=self._environment(),
        )
        try:
            self._ask(self._process, None)
        except ScoringError:
            _end(self._process)
            raise
        return self._process

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in self._secrets}
        return kept | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}

    def _ask(self, process: subprocess.Popen[str], inputs: list[dict[str, Any]] | None) -> list[dict[str, float]]:
        """Sends one batch (None: nothing, to hear whether the function was loaded) and waits for the answer."""
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()  # which ends the write or read below

        watch = threading.Timer(self._timeout_s, stop)
        watch.daemon = True
        watch.start()
        try:
            if inputs is not None:
                process.stdin.write(json.dumps(inputs) + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            watch.cancel()
        doing = "loading" if inputs is None else f"a batch of {len(inputs)}"
        if not line.endswith("\n"):
            _end(process)
            how = f"took longer than {self._timeout_s:g} s" if late.is_set() else f"died ({process.returncode})"
            raise ScoringError(f"{self.function}: {doing} {how}; see reward.function_timeout_s and its own output")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ScoringError(f"{self.function}: {doing}: {answer['error']}\n{answer['trace']}")
        return answer["scores"]


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(OSError):  # what was still to be written has nobody to read it
                pipe.close()


def _input(item: Item) -> dict[str, Any]:
    frame = item.frame
    known = None
    if frame != Frame.identity():
        sizes = {"original_size": frame.original, "seen_size": frame.seen}
        known = {"kind": frame.kind, **{name: [size.width, size.height] for name, size in sizes.items()}}
    return {"response": item.reply, "ground_truth": item.truth, "id": item.id, "frame": known}
