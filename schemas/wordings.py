"""The wordings of transcripts, as a YAML file has them: Jinja templates round the marked parts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.task import Record

Templates = Annotated[tuple[str, ...], Field(min_length=1)]


class Wordings(Record):
    """One template of each kind is drawn for a transcript.

    `think` is given hand, base and tip, `answer` name and target; label, the name without tags, is given to both, and
    question to all.
    """

    think: Templates
    answer: Templates
    negative_think: Templates
    negative_answer: Templates
