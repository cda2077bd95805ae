"""What is logged of a step's batch and of the update it led to, as named numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from orchestrator.batch.assemble import Assembled
from orchestrator.batch.lengths import trained_tokens
from policy.learning.learner import UpdateReport
from schemas.scoring import SCORE_TERMS


def batch_numbers(assembled: Assembled) -> dict[str, float]:
    """Numbers of one step's batch: rewards and their terms, lengths, endings, spread and adaptive weights."""
    scored = assembled.scored
    rewards = np.asarray(scored.column("reward"))
    turns: list[list[int]] = [list(lengths) for lengths in scored.column("turn_lengths").to_pylist() if lengths]
    lengths = np.asarray([sum(each) for each in turns])
    spread = [np.std(rewards[rows]) for rows in _rows_by_group(scored).values()]
    numbers = {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        "reward/group_std": float(np.mean(spread)),
        "reward/groups_without_spread": float(np.mean([s == 0 for s in spread])),
        "reply/tokens": float(lengths.mean()),
        "reply/turns": float(np.mean([len(each) for each in turns])),
        "reply/trained_tokens": float(trained_tokens(scored)),
        "reward/overlong": float(assembled.overlong.mean()),
        "reply/masked": float(assembled.masked.mean()),
        "adaptive/weight_mean": float(assembled.weights.mean()),
        "adaptive/weight_max": float(assembled.weights.max()),
    }
    if assembled.adaptive.g is not None:
        numbers["adaptive/g"] = assembled.adaptive.g
    for term in SCORE_TERMS:
        values = scored.column(term).drop_null()
        if len(values):
            numbers[f"reward/{term}"] = float(np.mean(np.asarray(values)))
    endings = scored.column("ended_by").to_pylist()
    for ending in ("answer", "turn_limit", "token_limit", "length_limit"):
        numbers[f"ended/{ending}"] = endings.count(ending) / len(endings)
    return numbers


def learner_numbers(report: UpdateReport) -> dict[str, float | None]:
    """The learner's report as metrics, None where nothing was measured. Of an update that planned no optimiser steps
    there is nothing else to say."""
    if report.optimiser_steps + report.skipped == 0:
        return {"learner/optimiser_steps": 0.0}
    return {f"learner/{name}": value for name, value in report.numbers().items()}


def _rows_by_group(table: pa.Table) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(table.column("group_id").to_pylist()):
        groups.setdefault(str(name), []).append(row)
    return groups
