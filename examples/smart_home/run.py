"""Smart home: who points at a device and says "on" gets that device, or is asked back.

python -m examples.smart_home.run [PHOTO...] [--model DIR]
"""

from __future__ import annotations

from dataclasses import dataclass

from examples.shared import read_arguments
from orchestrator.evaluation.answers import Answer
from orchestrator.pointer import LocalPointer

SURE = 0.5  # share of the draws that must agree before anything is switched


@dataclass(frozen=True, slots=True)
class Device:
    """A device of this home: a word that the model's name for it has, and its topic on the home's message bus."""

    word: str
    topic: str


HOME = (
    Device("circle", "living/lamp"),
    Device("square", "living/tv"),
    Device("triangle", "kitchen/heater"),
    Device("star", "garden/lights"),
    Device("diamond", "living/speaker"),
    Device("cross", "bedroom/blinds"),
)


def reaction(answer: Answer, said: str) -> str:
    """What the home does: a message to a device, a question back, or nothing.

    `said` is what the person wants: "on" or "off".
    """
    if answer.target is None:
        return "nothing: nobody points"
    device = next((each for each in HOME if each.word in (answer.name or "").lower().split()), None)
    if device is None:
        return f"ask: what is {answer.name or 'that'}?"
    if answer.confidence is not None and answer.confidence < SURE:
        return f"ask: do you mean {device.topic}?"
    return f"publish {device.topic}/set {said}"


def main() -> None:
    given = read_arguments(__doc__ or "", "smart_home")
    for answer in LocalPointer(given.model, samples=4).ask(given.photos):
        print(f"{answer.line()}\n    -> {reaction(answer, 'on')}")


if __name__ == "__main__":
    main()
