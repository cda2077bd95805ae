"""What lengths do to a batch: rewards of long replies shaped, trajectories that were cut left out of the loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from algorithms.overlong import overlong_penalty
from schemas.config.method import Overlong

CUT = ("token_limit", "length_limit")  # how a trajectory ends that a limit of tokens cut


def sampled_tokens(rollout: pa.Table, longest_turn: bool = False) -> npt.NDArray[np.int64]:
    """Sampled tokens of every trajectory, or of its longest turn."""
    turns: list[list[int]] = [list(lengths or ()) for lengths in rollout.column("turn_lengths").to_pylist()]
    return np.asarray([max(each, default=0) if longest_turn else sum(each) for each in turns], dtype=np.int64)


def trained_tokens(rollout: pa.Table) -> int:
    """Tokens that the loss counts: those of the mask, which leaves out trajectories that were cut if they are to be."""
    return int(pc.sum(pc.list_flatten(rollout.column("mask"))).as_py() or 0)


def shaped_rewards(scored: pa.Table, overlong: Overlong | None) -> torch.Tensor:
    """The rewards [B] that advantages are formed of: scores less the punishment of overlong replies. float64.

    scored: ROLLOUT and SCORES columns.
    """
    rewards = torch.from_numpy(scored.column("reward").to_numpy().copy())
    if overlong is None:
        return rewards
    lengths = torch.from_numpy(sampled_tokens(scored, overlong.per == "turn"))
    return rewards - overlong_penalty(lengths, overlong.limit, overlong.buffer, overlong.penalty)


def cut(rollout: pa.Table) -> npt.NDArray[np.bool_]:
    """Whether each trajectory was cut by a limit of tokens, so that its last reply is not whole."""
    return np.isin(np.asarray(rollout.column("ended_by").to_pylist()), CUT)


def without_cut(rollout: pa.Table) -> pa.Table:
    """The table with a mask of zeros for trajectories that were cut: no token of theirs is trained on or counted.

    Their rewards still count among their group's.
    """
    chosen = cut(rollout)
    masks = rollout.column("mask").to_pylist()
    emptied = [[0] * len(mask or ()) if gone else mask for mask, gone in zip(masks, chosen, strict=True)]
    at = rollout.schema.get_field_index("mask")
    return rollout.set_column(at, rollout.schema.field(at), pa.array(emptied, rollout.schema.field(at).type))
