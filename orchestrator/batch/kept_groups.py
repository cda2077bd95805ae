"""A few of a step's groups, kept as they were played: what the policy said in training, and what it earned.

    scored batch --chosen by seed and step--> rollouts/step-N.parquet        of at most MOST_STEPS steps, evenly

N counts from 1, as the screen does: a run that goes on from a checkpoint sets later ones aside and makes them again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from files.owned import write_file
from orchestrator.batch.progress import Progress
from orchestrator.run_folder.folder import RunFolder
from schemas import batch
from schemas.config import TrainConfig

MOST_STEPS = 200
IMAGE = "image"  # path of the task's first image
_PER_TOKEN = ("token_ids", "mask", "behaviour_logprobs", "image_grids")  # long, and for no reader
COLUMNS = [name for name in (*batch.ROLLOUT.names, *batch.SCORES.names[1:]) if name not in _PER_TOKEN]
Group = tuple[str, str]  # task_id, group_id


class KeptGroups:
    """Writes the groups of one run. Which they are depends on the seed and the step, not on who played them when."""

    def __init__(self, folder: RunFolder, config: TrainConfig) -> None:
        self._folder = folder
        self._count = config.trainer.groups_to_log
        self._seed = config.run.seed

    def write(self, step: int, scored: pa.Table, progress: Progress) -> None:
        """Keeps some groups of a step's scored batch (ROLLOUT and SCORES columns) if its turn has come."""
        if not self._count or not is_kept(step, progress.total_steps):
            return
        rows = chosen_rows(scored, self._seed, step, self._count)
        table = scored.select(COLUMNS).take(rows)
        images = progress.images({str(task) for task in table.column("task_id").to_pylist()})
        table = table.append_column(IMAGE, pa.array(_paths(table, images), pa.string()))
        out = pa.BufferOutputStream()
        pq.write_table(table, out, compression="zstd")
        write_file(self._folder.rollouts(step + 1), out.getvalue().to_pybytes(), overwrite=True)


def _paths(table: pa.Table, images: Mapping[str, str]) -> list[str]:
    return [images.get(str(task), "") for task in table.column("task_id").to_pylist()]


def is_kept(step: int, total: int) -> bool:
    """Whether groups of this step, counted from 0, are kept: the first, every so many, and the last.

    >>> [step for step in range(500) if is_kept(step, 500)][:3]
    [0, 3, 6]
    """
    every = -(-total // (MOST_STEPS - 1))
    return step % every == 0 or step == total - 1


def chosen_rows(scored: pa.Table, seed: int, step: int, count: int) -> list[int]:
    """The rows of `count` whole groups, by task, group and sample; of all groups where there are fewer."""
    columns = (scored.column(name).to_pylist() for name in ("task_id", "group_id", "sample"))
    places: dict[Group, list[tuple[int, int]]] = {}
    for row, (task, group, sample) in enumerate(zip(*columns, strict=True)):
        places.setdefault((task, group), []).append((sample, row))
    return [row for group in chosen(sorted(places), seed, step, count) for _, row in sorted(places[group])]


def chosen(groups: Sequence[Group], seed: int, step: int, count: int) -> list[Group]:
    """Some of the groups, in their order.

    >>> chosen([("a", "1"), ("b", "2")], seed=1, step=0, count=5)
    [('a', '1'), ('b', '2')]
    """
    return sorted(random.Random(f"{seed} {step}").sample(groups, min(count, len(groups))))
