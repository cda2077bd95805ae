"""In which frame a kept reply writes coordinates. Imports no actor: reading results needs none."""

from __future__ import annotations

from typing import Any

from pointing.coordinates import Frame, Size


def frame_of(row: dict[str, Any]) -> Frame:
    """The frame of one ROLLOUT row."""
    return Frame(row["frame"], Size(*row["original_size"]), Size(*row["seen_size"]))
