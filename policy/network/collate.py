"""Rows of a batch become tensors. The only place that pads or packs.

    Arrow columns --rows_of--> Row (views of the table) --.
    image tables --PixelCache--> decoded once per digest --+--> Collator --> ModelInputs

Nothing is written to the table's memory: it is shared with every process of the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pointing.drawing import decode_png
from policy.network.positions import Grid, mrope_positions, packed_positions
from policy.network.vision import ImageStats, Pixels, patchify

Layout = Literal["padded", "packed"]


@dataclass(frozen=True, slots=True)
class Row:
    """One trajectory: ids with every placeholder, the mask of trained ids, and its images in order.

    >>> Row("t", np.array([5, 6]), np.array([0, 1]), (), ()).n_targets
    1
    """

    name: str
    ids: npt.NDArray[np.integer]
    mask: npt.NDArray[np.integer]
    digests: tuple[str, ...]
    grids: tuple[Grid, ...]

    @property
    def n_targets(self) -> int:
        """Number of trained ids."""
        return int(self.mask.sum())


def rows_of(table: pa.Table) -> list[Row]:
    """The rows of a ROLLOUT or TRAINING table, as read-only views of its columns."""
    ids, masks = ragged(table, "token_ids"), ragged(table, "mask")
    names = table.column("trajectory_id").to_pylist()
    digests: list[Any] = table.column("image_digests").to_pylist()
    grids: list[Any] = table.column("image_grids").to_pylist()
    return [
        Row(str(name), i, m, tuple(d), tuple(_grid(g) for g in gs))
        for name, i, m, d, gs in zip(names, ids, masks, digests, grids, strict=True)
    ]


def ragged(table: pa.Table, column: str) -> list[npt.NDArray[Any]]:
    """The lists of a column as read-only views, one per row."""
    chunk: Any = table.column(column).combine_chunks()
    offsets = chunk.offsets.to_numpy()
    values = chunk.values.to_numpy(zero_copy_only=True)
    return [values[start:end] for start, end in pairwise(offsets)]


def _grid(grid: Sequence[int]) -> Grid:
    t, h, w = grid
    return t, h, w


class PixelCache:
    """Decoded images of one batch by digest; each is decoded when first asked for, and once."""

    def __init__(self, encoded: Mapping[str, Any]) -> None:
        """`encoded` holds PNG bytes, or Arrow scalars of them, by digest."""
        self._encoded = encoded
        self._decoded: dict[str, Pixels] = {}

    @classmethod
    def from_tables(cls, tables: Iterable[pa.Table]) -> PixelCache:
        """From IMAGES tables; a digest that occurs in several is the same image."""
        encoded: dict[str, Any] = {}
        for table in tables:
            png = table.column("png")
            encoded.update((str(digest), png[row]) for row, digest in enumerate(table.column("digest").to_pylist()))
        return cls(encoded)

    def pixels(self, digest: str) -> Pixels:
        """RGB [H, W, 3]. Raises KeyError naming the digest if no image table holds it."""
        if digest not in self._decoded:
            if digest not in self._encoded:
                raise KeyError(f"image {digest} is in none of the batch's image tables ({len(self._encoded)} images)")
            png = self._encoded[digest]
            self._decoded[digest] = np.asarray(decode_png(png if isinstance(png, bytes) else png.as_py()))
        return self._decoded[digest]


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """Tensors of one forward pass.

    Padded: B rows to the right length, positions [3, B, T]. Rows are padded at their end and attention is causal, so no
    real token sees padding and no attention mask is needed. Packed: one row of all tokens, positions [4, 1, T].

    Every image is there once, however many rows show it: `feature_index` says for each placeholder, in the order of the
    ids, which visual token it shows. Without any image there is one dummy that no placeholder shows, so that every rank
    runs the vision tower. Targets are the trained ids, row by row; `target_positions` is where, in the flattened
    [B x T], the network predicts them.
    """

    input_ids: Tensor  # [B, T] int64
    position_ids: Tensor  # [3, B, T] or [4, 1, T] int64
    starts: Tensor  # [S + 1] int32: where each sequence begins in the flattened [B x T], and B x T
    longest: int  # tokens of the longest sequence
    patches: Tensor  # [P, 3 x patch x patch] float32, one frame
    grids: Tensor  # [U, 3] int64
    feature_index: Tensor  # [placeholders] int64
    target_ids: Tensor  # [N] int64
    target_positions: Tensor  # [N] int64
    target_rows: Tensor  # [N] int64, the row of each target
    target_columns: Tensor  # [N] int64, counts the targets of each row

    @property
    def n_targets(self) -> int:
        """Trained ids of all rows."""
        return self.target_ids.numel()

    def to(self, device: torch.device | str) -> ModelInputs:
        """The same inputs on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "longest"}
        return ModelInputs(**moved, longest=self.longest)


class Collator:
    """Builds the inputs of one model in one layout."""

    def __init__(self, image_token_id: int, stats: ImageStats, layout: Layout = "padded") -> None:
        self._image_token_id = image_token_id
        self._stats = stats
        self._layout = layout

    def collate(self, rows: Sequence[Row], images: PixelCache) -> ModelInputs:
        """The inputs of one forward pass over at least one row.

        Raises ValueError naming the trajectory when its placeholders and grids disagree, when an image has another
        size than its grid says, or when its first id is a target (nothing comes before it to predict it from).
        """
        packed = self._layout == "packed"
        lengths = [len(row.ids) for row in rows]
        width = sum(lengths) if packed else max(lengths)
        starts = np.cumsum([0, *lengths[:-1]]) if packed else np.arange(len(rows)) * width
        ids = np.zeros(width if packed else len(rows) * width, dtype=np.int64)
        for row, start in zip(rows, starts, strict=True):
            ids[start : start + len(row.ids)] = row.ids
        positions = [self._positions(row) for row in rows]
        targets = [self._targets(row) for row in rows]
        patches, grids, feature_index = self._images(rows, images)
        flat = np.concatenate([start + target for start, target in zip(starts, targets, strict=True)])
        counts = [len(target) for target in targets]
        return ModelInputs(
            input_ids=torch.from_numpy(ids.reshape(1 if packed else len(rows), width)),
            position_ids=torch.from_numpy(
                packed_positions(positions)[:, None] if packed else _pad_positions(positions, width)
            ),
            starts=torch.from_numpy(np.append(starts, ids.size).astype(np.int32)),
            longest=max(lengths) if packed else width,
            patches=torch.from_numpy(patches),
            grids=torch.from_numpy(grids),
            feature_index=torch.from_numpy(feature_index),
            target_ids=torch.from_numpy(ids[flat]),
            target_positions=torch.from_numpy(flat - 1),
            target_rows=torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
            target_columns=torch.from_numpy(np.concatenate([np.arange(count) for count in counts])),
        )

    def _positions(self, row: Row) -> npt.NDArray[np.int64]:
        try:
            return mrope_positions(row.ids, row.grids, self._image_token_id, self._stats.merge)
        except ValueError as error:
            raise ValueError(f"trajectory {row.name}: {error}") from None

    def _targets(self, row: Row) -> npt.NDArray[np.int64]:
        where = np.flatnonzero(row.mask)
        if len(where) and where[0] == 0:
            raise ValueError(f"trajectory {row.name}: its first id is trained, but nothing precedes it")
        return where

    def _images(
        self, rows: Sequence[Row], images: PixelCache
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        shown = [(row.name, digest, grid) for row in rows for digest, grid in zip(row.digests, row.grids, strict=True)]
        merge = self._stats.merge
        if not shown:
            dummy = np.zeros((merge**2, self._stats.patch_values), dtype=np.float32)
            return dummy, np.array([[1, merge, merge]]), np.zeros(0, dtype=np.int64)
        patches: dict[str, npt.NDArray[np.float32]] = {}
        first_feature: dict[str, int] = {}
        grids: list[Grid] = []
        index: list[npt.NDArray[np.int64]] = []
        n_features = 0
        for name, digest, grid in shown:
            size = grid[0] * grid[1] * grid[2]
            if digest not in patches:
                patches[digest] = patchify(images.pixels(digest), self._stats)
                if len(patches[digest]) != size:
                    raise ValueError(
                        f"trajectory {name}: image {digest} has {len(patches[digest])} patches, its grid {grid} says "
                        f"{size}; it was resized after it was recorded"
                    )
                first_feature[digest] = n_features
                n_features += size // merge**2
                grids.append(grid)
            index.append(first_feature[digest] + np.arange(size // merge**2))
        return np.concatenate(list(patches.values())), np.array(grids, dtype=np.int64), np.concatenate(index)


def _pad_positions(rows: Sequence[npt.NDArray[np.int64]], width: int) -> npt.NDArray[np.int64]:
    positions = np.zeros((3, len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        positions[:, number, : row.shape[1]] = row
    return positions
