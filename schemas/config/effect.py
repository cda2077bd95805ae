"""Settings that nothing would read are refused: a value that is not the default says that an effect was expected."""

from __future__ import annotations

from schemas.task import Record


def refuse_unread(section: Record, because: str, *fields: str, remedy: str = "remove it") -> None:
    """Raises ValueError for the first of `fields` that is not at its default; `because` says why nothing reads it.

    A default that is written out is legal: a run folder's config.yaml writes all of them.
    """
    for name in fields:
        value = getattr(section, name)
        if value != type(section).model_fields[name].get_default(call_default_factory=True):
            raise ValueError(f"{name}={value!r} has no effect {because}; {remedy}")
