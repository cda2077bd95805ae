"""Says when no reply earns anything: nothing can be learned then, and a run would go on without an error."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pointing.grammar import parse

SHOWN = 400  # characters of a reply


def nothing_earned(table: pa.Table) -> str | None:
    """Lines for people where every trajectory has the same reward, 0 or less, with a reply as the model wrote it.

    None otherwise. `table` has ROLLOUT and SCORES columns.
    """
    rewards = table.column("reward")
    if table.num_rows == 0 or pc.max(rewards).as_py() > min(0.0, pc.min(rewards).as_py()):
        return None
    rows: list[dict[str, Any]] = table.select(["reply", "ground_truth"]).to_pylist()
    positive = next((row for row in rows if row["ground_truth"] != "none"), rows[0])
    reply = str(positive["reply"])
    cut = reply if len(reply) <= SHOWN else f"{reply[:SHOWN]}... ({len(reply)} characters)"
    return (
        f"none of {table.num_rows} replies earned anything, so there is nothing to learn from. One of them:\n"
        f"             {cut!r}\n"
        f"             {_why(reply)} A model that does not know the form of the answer learns it in stage 1 (pointvg "
        "sft);\n             data.prompt_style=detailed describes it in the question."
    )


def _why(reply: str) -> str:
    said = parse(reply)
    if said.boxes or said.rays:
        return "It has the form of an answer, but nothing in it is right."
    if "bbox" in reply or "box_2d" in reply:
        return "It has boxes in a form of its own, not <|box_start|>[x1, y1, x2, y2]<|box_end|>."
    return "It has no <|box_start|>[x1, y1, x2, y2]<|box_end|> and no call of draw_ray."
