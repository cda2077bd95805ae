"""Transcripts in varied words: templates drawn by seed and task, round marks that the grammar reads.

Wordings (YAML) --compiled, each tried on a sample and read back--> Writer --truth, frame--> turns
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from pointing import tool
from pointing.coordinates import Frame, Size
from pointing.grammar import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, parse
from pointing.prompts import QUESTION, MarkedParts, marks
from schemas.config.file import SettingError, load
from schemas.task import GroundTruth, RaySegment
from schemas.wordings import Wordings

SHIPPED = Path(__file__).with_name("wordings.yaml")
THINK_OPEN = "<think>"

Kind = Literal["think", "answer", "negative_think", "negative_answer"]
_GIVEN: Mapping[Kind, tuple[str, ...]] = {
    "think": ("hand", "base", "tip"),
    "answer": ("name", "target"),
    "negative_think": (),
    "negative_answer": (),
}
_SAMPLE = GroundTruth(
    hand_bbox=(11, 12, 13, 14),
    pointing_keypoints=((15, 16), (17, 18)),
    pointing_ray=RaySegment(start=(17, 18), end=(19, 20)),
    obj_bbox=(21, 22, 23, 24),
    obj_name="cup",
)
_FRAME = Frame("pixels", Size(30, 30), Size(30, 30))


def read_wordings(file: Path = SHIPPED) -> Wordings:
    """The wordings of a YAML file. Raises ConfigError naming file, line and field."""
    return load(Wordings, file).config


class Writer:
    """Writes transcripts. The same wordings, seed and key give the same words.

    >>> from schemas.task import NEGATIVE
    >>> Writer(read_wordings(), seed=0).turns(NEGATIVE, _FRAME, "train-0")[0].endswith("</answer>")
    True
    """

    def __init__(self, wordings: Wordings, seed: int) -> None:
        """Compiles every template and tries it. Raises SettingError naming the one that cannot be used."""
        self._seed = seed
        self._think = _compiled("think", wordings.think)
        self._answer = _compiled("answer", wordings.answer)
        self._negative_think = _compiled("negative_think", wordings.negative_think)
        self._negative_answer = _compiled("negative_answer", wordings.negative_answer)

    def turns(self, truth: GroundTruth, frame: Frame, key: str, question: str = QUESTION) -> tuple[str, ...]:
        """The assistant's turns: one for a negative, two otherwise. `key` names the task, for the draw.

        Raises FieldError as pointing.prompts.transcript does.
        """
        draw = random.Random(f"{self._seed} {key}")
        # In a question, a mark would be read as the model's own.
        asked = "".join(character for character in question if character not in "<>")
        if truth.negative:
            said = (draw.choice(self._negative_think), draw.choice(self._negative_answer))
            think, answer = (each.render(question=asked).strip() for each in said)
            return (f"{THINK_OPEN}{think}{THINK_CLOSE}{ANSWER_OPEN}{answer}{ANSWER_CLOSE}",)
        parts = marks(truth, frame)
        think = _render(draw.choice(self._think), parts, "think", asked)
        answer = _render(draw.choice(self._answer), parts, "answer", asked)
        return f"{THINK_OPEN}{think}{THINK_CLOSE}\n{parts.call}", f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"


def _compiled(kind: Kind, templates: Sequence[str]) -> list[jinja2.Template]:
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined)
    compiled: list[jinja2.Template] = []
    for number, text in enumerate(templates):
        field = f"{kind}[{number}]"
        given = ", ".join((*_GIVEN[kind], *(("label",) if _GIVEN[kind] else ()), "question"))
        try:
            template = environment.from_string(text)
            _try(template, kind, field, text)
        except jinja2.TemplateError as error:
            raise SettingError(field, text, str(error), f"correct the template; it is given {given}") from None
        compiled.append(template)
    return compiled


def _render(template: jinja2.Template, parts: MarkedParts, kind: Kind, question: str) -> str:
    given = {name: getattr(parts, name) for name in _GIVEN[kind]}
    return template.render(question=question, label=parts.label, **given).strip()


def _try(template: jinja2.Template, kind: Kind, field: str, text: str) -> None:
    """Renders a sample and reads it back. Raises SettingError where something else is read than was given."""
    given = _GIVEN[kind]
    parts = marks(_SAMPLE, _FRAME)
    said = _render(template, parts, kind, QUESTION) if given else template.render(question=QUESTION).strip()
    rest = said
    for name in given:
        rest = rest.replace(getattr(parts, name), "", 1)
    if "<" in rest or not said:
        what = "holds tags of its own" if "<" in rest else "has no words"
        raise SettingError(field, text, what, "write plain words round the parts that it is given, each once")
    wanted = parse(" ".join(getattr(parts, name) for name in given))
    if parse(said) != wanted or tool.OPEN in said:
        raise SettingError(field, text, "does not say all parts once and in order", f"write {_named(given)}")


def _named(given: Sequence[str]) -> str:
    return ", ".join(f"{{{{ {name} }}}}" for name in given)
