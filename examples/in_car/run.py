"""In a car: "what is that?" is answered in a sentence, and a hand that points at nothing is left alone.

python -m examples.in_car.run [PHOTO...] [--model DIR]
"""

from __future__ import annotations

from examples.shared import read_arguments
from orchestrator.evaluation.answers import Answer
from orchestrator.pointer import LocalPointer

SURE = 0.5  # below it the answer says that it is a guess


def sentence(answer: Answer, width: int) -> str | None:
    """What the car says of a view `width` pixels wide; None where nobody points: a driver is not to be disturbed."""
    if answer.target is None:
        return None
    middle = (answer.target[0] + answer.target[2]) / 2 / width
    side = "on the left" if middle < 1 / 3 else "on the right" if middle > 2 / 3 else "ahead"
    name = answer.name or "something that I have no name for"
    name = name if name.split()[0] in ("a", "an", "the", "something") else f"the {name}"
    if answer.confidence is not None and answer.confidence < SURE:
        return f"I am not certain; perhaps {name} {side}."
    return f"That is {name} {side}."


def main() -> None:
    from PIL import Image

    given = read_arguments(__doc__ or "", "in_car", negative=0.5)
    for answer in LocalPointer(given.model, samples=4).ask(given.photos):
        with Image.open(answer.image) as photo:
            said = sentence(answer, photo.width)
        print(f"{answer.line()}\n    -> {said or '(says nothing)'}")


if __name__ == "__main__":
    main()
