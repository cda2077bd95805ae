"""M-RoPE position ids of one row: three per token (time, height, width).

    text     all three equal, counting up
    image    time = start, height = start + row, width = start + column of the merged grid
    after    counting goes on at start + max(rows, columns)

The same rule for Qwen2-VL, Qwen2.5-VL and Qwen3-VL as long as images are stills (Qwen2-VL, arXiv 2409.12191, 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Grid = tuple[int, int, int]


def mrope_positions(ids: npt.NDArray[np.integer], grids: Sequence[Grid], image_token_id: int, merge: int) -> Ints:
    """Position ids [3, L] of a row.

    Args:
        ids: [L], with every placeholder of every image.
        grids: (t, h, w) in patches of each image, in order.
        image_token_id: the placeholder.
        merge: patches along each side of a visual token.

    Raises ValueError when the placeholders do not add up to the grids.

    >>> mrope_positions(np.array([5, 9, 9, 6]), [(1, 2, 4)], image_token_id=9, merge=2).tolist()
    [[0, 1, 1, 3], [0, 1, 1, 3], [0, 1, 2, 3]]
    """
    where = np.flatnonzero(ids == image_token_id)
    sizes = [t * h * w // merge**2 for t, h, w in grids]
    if len(where) != sum(sizes):
        raise ValueError(f"{len(where)} image placeholders in a row whose grids {list(grids)} make {sum(sizes)} tokens")
    positions = np.empty((3, len(ids)), dtype=np.int64)
    done = at = 0  # tokens written, next position
    for (t, h, w), size, first in zip(grids, sizes, np.cumsum([0, *sizes[:-1]]) if sizes else (), strict=True):
        start = int(where[first])
        if not np.array_equal(where[first : first + size], np.arange(start, start + size)):
            raise ValueError(f"the {size} placeholders of an image of grid {(t, h, w)} are not in one run")
        positions[:, done:start] = at + np.arange(start - done)
        at += start - done
        rows, columns = h // merge, w // merge
        positions[:, start : start + size] = at + np.indices((t, rows, columns)).reshape(3, -1)
        at += max(rows, columns)
        done = start + size
    positions[:, done:] = at + np.arange(len(ids) - done)
    return positions


def packed_positions(rows: Sequence[Ints]) -> Ints:
    """Position ids [4, sum of L] of rows laid end to end, from their [3, L].

    The first row counts 0, 1, ... within each row of the batch: attention masks are built from it. Without it,
    consecutive rows of equal positions would attend to one another.

    >>> packed_positions([np.zeros((3, 2), dtype=np.int64), np.ones((3, 1), dtype=np.int64)]).tolist()
    [[0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]
    """
    text = np.concatenate([np.arange(row.shape[1]) for row in rows])
    return np.concatenate([text[None], np.concatenate(rows, axis=1)])
