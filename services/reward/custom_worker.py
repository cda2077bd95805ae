"""The process in which a user's reward function runs: python -m services.reward.custom_worker PATH NAME KWARGS_JSON

    a line of JSON in (a list of inputs) --> function(inputs, **kwargs) --> a line of JSON out (an Answer)

A process of its own, because nothing else can end a function that does not return. Its standard output goes to standard
error, so that a function may print. It ends with its parent: when its input does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, TextIO

Function = Callable[..., Any]


def load(path: Path, name: str) -> Function:
    """The function `name` of a Python file, whose folder it may import from."""
    spec = importlib.util.spec_from_file_location("custom_reward", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_reward"] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        found = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise ImportError(f"{path}: has no function {name!r}; it has {found or 'none'}")
    return function


def run(function: Function, inputs: list[dict[str, Any]], kwargs: dict[str, Any]) -> list[dict[str, float]]:
    """Calls the function and checks what it gave. Raises ValueError naming the item.

    The result of an item has a number `overall` or `reward`; both are given back.
    """
    outputs = function(inputs, **kwargs)
    if not isinstance(outputs, list) or len(outputs) != len(inputs):
        size = f" of {len(outputs)}" if isinstance(outputs, list) else ""
        raise ValueError(f"returned a {type(outputs).__name__}{size} for {len(inputs)} inputs; expected a list of them")
    return [_checked(index, output) for index, output in enumerate(outputs)]


def _checked(index: int, output: object) -> dict[str, float]:
    if not isinstance(output, dict):
        raise ValueError(f"item {index}: returned a {type(output).__name__}; expected a dictionary")
    numbers: dict[str, float] = {}
    for key, value in output.items():
        try:
            numbers[str(key)] = float(value)  # numpy's numbers too
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"item {index}: {key!r} is a {type(value).__name__} and not a number") from None
        if not isfinite(numbers[str(key)]):
            raise ValueError(f"item {index}: {key!r} is not finite: {value}")
    if "overall" not in numbers and "reward" not in numbers:
        raise ValueError(f"item {index}: has neither 'overall' nor 'reward', only {sorted(numbers)}")
    reward = numbers.get("overall", numbers.get("reward", 0.0))
    return {**numbers, "overall": reward, "reward": reward}


def _answer(function: Function, line: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"scores": run(function, json.loads(line), kwargs)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc(limit=-8)}


def _read(source: TextIO, lines: queue.SimpleQueue[str]) -> None:
    for line in source:
        lines.put(line)
    os._exit(0)  # the parent is gone; whatever the function is doing, nobody waits for it


def main(path: str, name: str, kwargs_json: str) -> None:
    """Says whether the function was loaded, then answers line by line."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin, lines), daemon=True).start()
    try:
        function = load(Path(path), name)
    except BaseException as error:
        say({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc(limit=-8)})
        return
    say({"scores": []})
    while True:
        say(_answer(function, lines.get(), json.loads(kwargs_json)))


if __name__ == "__main__":
    main(*sys.argv[1:])
